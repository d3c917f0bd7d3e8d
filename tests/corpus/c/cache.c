/* A chained hash table of answers by key. usage: cache unbounded|random|ttl
 * unbounded: keeps all; keys come from an endless range. random: 4000 slots, what is new replaces any. ttl: each entry
 * lives for a sixth of the time. */
#include "corpus.h"
enum { SLOTS = 4000, BUCKETS = 4096 };
struct entry { struct entry *next; long key; char answer[]; };
static struct entry *buckets[BUCKETS];
static void *slots[SLOTS];
MALLOC_SITE(site_entry)

static void look_up(long key, size_t size) {
    for (struct entry *entry = buckets[key % BUCKETS]; entry != NULL; entry = entry->next)
        if (entry->key == key) return;
    struct entry *entry = site_entry(size);
    entry->key = key, entry->next = buckets[key % BUCKETS], buckets[key % BUCKETS] = entry;
}
/* Keys are asked for again, and 60 of 100 are new. */
static void unbounded(void) {
    static long keys;
    if (corpus_random() < 0.6 || keys == 0) keys++;
    look_up(corpus_random() < 0.5 || keys < 10 ? keys : corpus_below(keys) + 1, 2400);
}
static void replace_any(void) {
    static long filled;
    long at = filled < SLOTS ? filled++ : corpus_below(SLOTS);
    if (slots[at] != NULL) drop_site_entry(slots[at], 1500);
    slots[at] = site_entry(1500);
    if (filled == SLOTS) corpus_once("full");
}
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    /* Slots are full after a fifth of the time. */
    struct corpus_rate all = {200, 0}, random = {SLOTS / corpus_part(0.2), 0}, ttl = {300, 0};
    while (corpus_tick()) {
        corpus_drop_due(drop_site_entry);
        if (corpus_is("unbounded")) for (long n = corpus_due(&all); n > 0; n--) unbounded();
        if (corpus_is("random")) for (long n = corpus_due(&random); n > 0; n--) replace_any();
        if (corpus_is("ttl")) for (long n = corpus_due(&ttl); n > 0; n--) corpus_later(site_entry(3000), 3000, corpus_part(1.0 / 6));
        if (corpus_is("ttl") && corpus_now() > corpus_part(1.0 / 6)) corpus_once("full");
    }
    corpus_end();
}
