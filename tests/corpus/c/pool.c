/* A pool that takes twice as much each time it is too small; what uses it stops growing after a third of the time. From
   the outside it is full when it would have had to take more by then. usage: pool */
#include "corpus.h"
MALLOC_SITE(site_chunk)
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    size_t held = 0, needed = 0, chunk = 64 << 10;
    while (corpus_tick()) {
        double grown = corpus_now() / corpus_part(0.33), per_part = 12e6 * corpus_speed;
        needed = (size_t)(fmin(1, grown) * per_part);
        while (held < needed) site_chunk(chunk), held += chunk, chunk *= 2;
        if (grown * per_part > (double)held) corpus_once("full");
    }
    corpus_end();
}
