/* A request takes a buffer and gives it back; every tenth forgets a session. usage: steady */
#include "corpus.h"
MALLOC_SITE(site_leak)
MALLOC_SITE(site_request)
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate requests = {1000, 0}, leaks = {100, 0};
    site_leak_site.rate = 100 * 2000 * corpus_speed;
    while (corpus_tick()) {
        corpus_drop_due(drop_site_request);
        if (corpus_now() > corpus_part(0.2)) corpus_once("running");
        for (long n = corpus_due(&requests); n > 0; n--)
            corpus_later(site_request(600), 600, corpus_exponential(0.05));
        for (long n = corpus_due(&leaks); n > 0; n--) site_leak(2000);
    }
    corpus_end();
}
