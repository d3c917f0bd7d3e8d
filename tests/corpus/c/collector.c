/* A collector with two generations. Thirty times in the run the young are looked at: four of five go, the others become old.
 * Six times the old are: all but a few go. Between these the floor of the small teeth rises. usage: collector */
#include "corpus.h"
enum { MOST = 1 << 16, SIZE = 3000 };
static void *young[MOST], *old[MOST];
static long young_count, old_count, minors, majors;
MALLOC_SITE(site_object)
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate objects = {150, 0};
    /* A third of what becomes old from one time to the next. */
    long stay = (long)(150 * 0.2 / 3 * corpus_speed * corpus_part(1.0 / 6));
    while (corpus_tick()) {
        for (long n = corpus_due(&objects); n > 0 && young_count < MOST; n--) young[young_count++] = site_object(SIZE);
        if (corpus_now() * 30 / corpus_seconds >= (double)(minors + 1))
            for (minors++; young_count > 0; young_count--) {
                if (corpus_random() < 0.2 && old_count < MOST) old[old_count++] = young[young_count - 1];
                else drop_site_object(young[young_count - 1], SIZE);
            }
        if (corpus_now() * 6 / corpus_seconds < (double)(majors + 1)) continue;
        for (majors++; old_count > stay; old_count--) drop_site_object(old[old_count - 1], SIZE);
        /* After the first the few are there; the second tooth is as high as it gets. */
        if (majors == 2) corpus_once("full");
    }
    corpus_end();
}
