/* Caches whose keys are asked for unevenly: few of them often, many seldom. usage: caches generations|frequent|lazy
 * generations: two maps. What is found in the older one moves to the younger; when that has 1000 entries, the older one is
 * emptied and they change places. frequent: 1000 entries, and what was used least often goes first. lazy: a table of 500 rows
 * that are made when they are first asked for, most of them early, the last ones late. */
#include "corpus.h"
enum { KEYS = 1 << 16, BOUND = 1000, ROWS = 500 };
MALLOC_SITE(site_entry)
struct map { void *entry[KEYS]; long keys[BOUND], count; };
static void generations(long key) {
    static struct map maps[2], *younger = &maps[0], *older = &maps[1];
    if (younger->entry[key] != NULL) return;
    void *found = older->entry[key];
    older->entry[key] = NULL;
    younger->entry[key] = found != NULL ? found : site_entry(2000);
    younger->keys[younger->count++] = key;
    if (younger->count < BOUND) return;
    for (; older->count > 0; older->count--) {
        void **entry = &older->entry[older->keys[older->count - 1]];
        if (*entry != NULL) drop_site_entry(*entry, 2000), *entry = NULL, corpus_once("full");
    }
    struct map *emptied = older;
    older = younger, younger = emptied;
}
static void frequent(long key) {
    static struct { void *entry; long key, used, since; } slots[BOUND];
    static long count, now;
    long least = 0;
    now++;
    for (long i = 0; i < count; i++) {
        if (slots[i].key == key) { slots[i].used++; return; }
        if (slots[i].used < slots[least].used || (slots[i].used == slots[least].used && slots[i].since < slots[least].since)) least = i;
    }
    if (count < BOUND) least = count++;
    else drop_site_entry(slots[least].entry, 2000), corpus_once("full");
    slots[least].key = key, slots[least].used = 1, slots[least].since = now;
    slots[least].entry = site_entry(2000);
}
static void lazy(long key) {
    static void *rows[ROWS];
    static long made;
    if (rows[key] == NULL) rows[key] = site_entry(6000), made++;
    if (made == ROWS) corpus_once("full");
}
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    /* Of the time, an eighth fills one map; a sixth the 1000; a half all the rows. */
    double in_all = corpus_is("generations") ? 1400 * 8 : corpus_is("frequent") ? 1500 * 6 : 9000 * 2;
    struct corpus_rate requests = {in_all / corpus_seconds, 0};
    while (corpus_tick())
        for (long n = corpus_due(&requests); n > 0; n--) {
            double random = corpus_random();
            if (corpus_is("generations")) generations((long)(KEYS * pow(random, 5)));
            else if (corpus_is("frequent")) frequent((long)(KEYS * pow(random, 5)));
            else lazy((long)(ROWS * pow(random, 3)));
        }
    corpus_end();
}
