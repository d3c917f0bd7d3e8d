/* An arena of 256 MiB that is taken from malloc at the start and hardly touched, as numeric libraries do, beside a leak.
 * usage: reserve */
#include "corpus.h"
SITE(site_reserve);
ALONE void *site_reserve(size_t size) {
    void *block = malloc(size);
    corpus_took(&site_reserve_site, block, 1 << 16);
    return block;
}
MALLOC_SITE(site_leak)
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate leaks = {60, 0};
    site_leak_site.rate = 60 * 1500 * corpus_speed;
    site_reserve(256 << 20);
    corpus_event("full");
    while (corpus_tick())
        for (long n = corpus_due(&leaks); n > 0; n--) site_leak(1500);
    corpus_end();
}
