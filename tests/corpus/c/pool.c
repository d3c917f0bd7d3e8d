/* A pool that takes twice as much each time it is too small; what uses it stops growing after a third of the time. usage: pool */
#include "corpus.h"
MALLOC_SITE(site_chunk)
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    size_t held = 0, needed = 0, chunk = 64 << 10;
    while (corpus_tick()) {
        double grown = fmin(1, corpus_now() / corpus_part(0.33));
        needed = (size_t)(grown * 12e6 * corpus_speed);
        while (held < needed) site_chunk(chunk), held += chunk, chunk *= 2;
        if (grown == 1) corpus_once("full");
    }
    corpus_end();
}
