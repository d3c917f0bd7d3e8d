/* Load that rises and falls. usage: tide diurnal|shrinks
 * diurnal: as many blocks as a sinus says, five days in the time. shrinks: grows for a third, shrinks to a fifth of that over
 * another sixth, and stays. */
#include "corpus.h"
enum { MOST = 1 << 16, SIZE = 4000 };
static void *held[MOST];
static long count;
MALLOC_SITE(site_session)
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate turned = {200, 0};
    while (corpus_tick()) {
        double share, now = corpus_now();
        if (corpus_is("diurnal")) {
            share = 0.5 - 0.4 * cos(2 * M_PI * now / corpus_part(0.2));
            if (now > corpus_part(0.2)) corpus_once("full");
        } else {
            double down = (now - corpus_part(1.0 / 3)) / corpus_part(1.0 / 6);
            share = down < 0 ? now / corpus_part(1.0 / 3) : down < 1 ? 1 - 0.8 * down : 0.2;
            if (down >= 1) corpus_once("shrunk");
        }
        long wanted = (long)(share * 3000 * corpus_speed);
        /* Sessions end in any order, and others begin. */
        for (long n = corpus_due(&turned); n > 0 && count > 0; n--) {
            long at = corpus_below(count);
            drop_site_session(held[at], SIZE), held[at] = held[--count];
        }
        for (; count > wanted; count--) {
            long at = corpus_below(count);
            drop_site_session(held[at], SIZE), held[at] = held[count - 1];
        }
        for (; count < wanted && count < MOST;) held[count++] = site_session(SIZE);
    }
    corpus_end();
}
