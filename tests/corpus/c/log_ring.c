/* The last 256 lines of a log, each a block of its own size. usage: log_ring */
#include "corpus.h"
enum { LINES = 256 };
MALLOC_SITE(site_line)
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate lines = {100, 0};
    struct { void *text; size_t size; } ring[LINES] = {{NULL, 0}};
    long next = 0;
    while (corpus_tick())
        for (long n = corpus_due(&lines); n > 0; n--) {
            long at = next++ % LINES;
            if (ring[at].text != NULL) corpus_once("full"), drop_site_line(ring[at].text, ring[at].size);
            ring[at].size = 200 + (size_t)corpus_below(3000);
            ring[at].text = site_line(ring[at].size);
        }
    corpus_end();
}
