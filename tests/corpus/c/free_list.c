/* Objects that go onto a free list instead of back, and are taken from there first. As many are in use as twelve humps of
 * load say; the first five are each higher than the one before, the others are not. usage: free_list */
#include "corpus.h"
enum { MOST = 1 << 15, SIZE = 2000 };
static void *used[MOST], *free_list[MOST];
static long used_count, free_count;
MALLOC_SITE(site_object)
int main(int argc, char **argv) {
    static const double HEIGHT[13] = {0.4, 0.6, 0.75, 0.9, 1, 0.7, 0.95, 0.5, 0.98, 0.8, 0.6, 0.9, 0.5};
    corpus_begin(argc, argv);
    while (corpus_tick()) {
        double humps = fmin(12, corpus_now() * 12 / corpus_seconds), wave = sin(M_PI * fmod(humps, 1));
        long wanted = (long)(HEIGHT[(int)humps] * wave * wave * 1500 * corpus_speed);
        while (used_count > wanted) free_list[free_count++] = used[--used_count];
        for (; used_count < wanted && used_count < MOST; used_count++)
            used[used_count] = free_count > 0 ? free_list[--free_count] : site_object(SIZE);
        /* The sixth hump has come, and has brought no more. */
        if (humps > 5.5) corpus_once("full");
    }
    corpus_end();
}
