/* As many connections as there is load, all of which are replaced by others in time. usage: load ramp|step|tides
 * ramp: rises for two fifths of the time, then stays. step: rises at once, stays, rises to a higher level at a third of the
 * time, in a thirtieth of it, and stays there. tides: three humps with quiet between them. */
#include "corpus.h"
enum { MOST = 1 << 15, SIZE = 3000 };
static void *held[MOST];
static long count;
MALLOC_SITE(site_connection)
static void close_any(void) {
    long at = corpus_below(count);
    drop_site_connection(held[at], SIZE), held[at] = held[--count];
}
static double load(double part) {
    if (corpus_is("ramp")) {
        if (part > 0.4) corpus_once("full");
        return fmin(1, part / 0.4);
    }
    if (corpus_is("step")) {
        double above = (part - 1.0 / 3) * 30;
        if (above > 1) corpus_once("full");
        return 0.6 * fmin(1, part * 30) + 0.4 * fmin(1, fmax(0, above));
    }
    if (part > 1.0 / 3) corpus_once("full");
    return fmax(0.05, -cos(2 * M_PI * 3 * part));
}
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate closed = {300, 0};
    while (corpus_tick()) {
        long wanted = (long)(load(corpus_now() / corpus_seconds) * 1500 * corpus_speed);
        for (long n = corpus_due(&closed); n > 0 && count > 0; n--) close_any();
        while (count > wanted) close_any();
        while (count < wanted && count < MOST) held[count++] = site_connection(SIZE);
    }
    corpus_end();
}
