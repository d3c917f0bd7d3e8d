/* Strings that are kept once each. usage: intern names|ids
 * names: of 600 words. ids: each request has one that never was before. */
#include "corpus.h"
enum { BUCKETS = 1 << 14, WORDS = 600 };
struct string { struct string *next; uint64_t key; char text[]; };
static struct string *buckets[BUCKETS];
static long kept;
MALLOC_SITE(site_intern)
static void intern(uint64_t key) {
    struct string **bucket = &buckets[key * 0x9e3779b97f4a7c15u >> 50];
    for (struct string *string = *bucket; string != NULL; string = string->next)
        if (string->key == key) return;
    struct string *string = site_intern(2400);
    string->key = key, string->next = *bucket, *bucket = string, kept++;
}
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate requests = {600, 0};
    uint64_t requested = 0;
    if (corpus_is("ids")) site_intern_site.rate = 200 * 2400 * corpus_speed;
    while (corpus_tick())
        for (long n = corpus_due(&requests); n > 0; n--) {
            if (corpus_is("ids")) { intern(++requested / 3); }
            else intern((uint64_t)corpus_below(WORDS));
            if (kept == WORDS) corpus_once("full");
        }
    corpus_end();
}
