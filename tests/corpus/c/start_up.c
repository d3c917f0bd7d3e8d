/* What is made once. usage: start_up tables|lazy|late|stops
 * tables: all in the first thirtieth of the time. lazy: twenty singletons, each when it is first used, in the first third.
 * late: a warm-up that takes the first third, and then replaces one entry in a hundred now and then. stops: a leak for a third
 * of the time, then no more. */
#include "corpus.h"
enum { ENTRIES = 2000 };
static void *entries[ENTRIES];
MALLOC_SITE(site_table)
MALLOC_SITE(site_request)
/* One place for what is new and for what replaces: two stacks would be two sites. */
ALONE void put(long at, size_t size) {
    if (entries[at] != NULL) drop_site_table(entries[at], size);
    entries[at] = site_table(size);
}
ALONE void put_each(const long *places, long count, size_t size) {
    for (long i = 0; i < count; i++) put(places[i], size);
}
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate requests = {500, 0};
    size_t size = (size_t)(4000 * corpus_speed);
    double until = corpus_is("tables") ? corpus_part(1.0 / 30) : corpus_part(1.0 / 3);
    long all = corpus_is("lazy") ? 20 : ENTRIES, made = 0;
    struct corpus_rate replaced = {20, 0};
    if (corpus_is("lazy")) size *= 20;
    while (corpus_tick()) {
        corpus_drop_due(drop_site_request);
        for (long n = corpus_due(&requests); n > 0; n--) corpus_later(site_request(500), 500, corpus_exponential(0.02));
        /* Singletons come ever more rarely. */
        double share = fmin(1, corpus_now() / until);
        long due = (long)((double)all * (corpus_is("lazy") ? sqrt(share) : share));
        long places[ENTRIES + 1], count = 0;
        for (; made < due; made++) places[count++] = made;
        long to_replace = corpus_due(&replaced);
        for (; corpus_is("late") && made == all && to_replace > 0 && count < ENTRIES; to_replace--)
            places[count++] = corpus_below(ENTRIES);
        put_each(places, count, size);
        if (made == all) corpus_once("full");
    }
    corpus_end();
}
