/* A chained hash table into which is only inserted: visitors by number. Each time that there are more of them than buckets, a
 * new array of buckets takes the old one's place, a quarter longer. usage: table */
#include "corpus.h"
struct node { struct node *next; uint64_t key; char value[104]; };
static struct node **buckets;
static size_t bucket_count, node_count;
SITE(site_buckets);
ALONE struct node **site_buckets(size_t count) {
    size_t size = count * sizeof *buckets;
    return memset(corpus_took(&site_buckets_site, malloc(size), size), 0, size);
}
MALLOC_SITE(site_node)
static struct node **bucket(uint64_t key) { return &buckets[key * 0x9e3779b97f4a7c15u % bucket_count]; }
static void put(struct node *node) { node->next = *bucket(node->key), *bucket(node->key) = node; }
static void make_room(void) {
    struct node **old = buckets;
    size_t old_count = bucket_count;
    bucket_count += bucket_count / 4 + 64, buckets = site_buckets(bucket_count);
    for (size_t i = 0; i < old_count; i++)
        for (struct node *node = old[i], *next; node != NULL; node = next) next = node->next, put(node);
    if (old != NULL) corpus_gave(&site_buckets_site, old_count * sizeof *old), free(old);
}
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate visitors = {1500, 0};
    site_node_site.rate = 1500 * sizeof(struct node) * corpus_speed;
    while (corpus_tick())
        for (long n = corpus_due(&visitors); n > 0; n--) {
            if (node_count == bucket_count) make_room();
            struct node *node = site_node(sizeof *node);
            node->key = ++node_count, put(node);
        }
    corpus_end();
}
