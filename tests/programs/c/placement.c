/* Every allocator function with arguments of every shape, on four threads that live before and after:
 * sizes from 0 to large, NULL, 0 and failures included. Some blocks of each site stay.
 * usage: placement ROUNDS */
#define _GNU_SOURCE
#include "truth.h"
#include <malloc.h>
#include <pthread.h>

enum { THREADS = 4 };
static const size_t sizes[] = {0, 1, 8, 24, 100, 1000, 1024, 1025, 4096, 5000, 40000, 300000, 3000000};
enum { SIZES = sizeof sizes / sizeof *sizes };

TAKES(a_malloc, "malloc", malloc(n))
TAKES(a_calloc, "calloc", calloc(n, 1))
TAKES(a_calloc_of_many, "calloc", calloc(1, n))
TAKES(a_realloc_of_null, "realloc", realloc(NULL, n))
TAKES(a_reallocarray_of_null, "reallocarray|realloc", reallocarray(NULL, n, 1))
TAKES(an_aligned_alloc, "aligned_alloc|memalign", aligned_alloc(64, n))
TAKES(a_memalign, "memalign|aligned_alloc", memalign(256, n))
TAKES(a_valloc, "valloc|memalign|aligned_alloc", valloc(n))
SITE(a_posix_memalign, "posix_memalign");
ALONE void *a_posix_memalign(size_t n) {
    void *block = NULL;
    int rc = posix_memalign(&block, 32, n); took(&a_posix_memalign_site, rc == 0 ? block : NULL, n);
    return block;
}

/* A block that is moved about, and the site that owns it now. */
struct owned { void *block; size_t size; struct truth_site *site; };

SITE(a_realloc, "realloc");
SITE(a_realloc_to_nothing, "realloc");
SITE(a_reallocarray, "reallocarray|realloc");
ALONE void a_realloc(struct owned *owned, size_t n) {
    void *block = realloc(owned->block, n); took(&a_realloc_site, block, n);
    gave(owned->site, owned->size);
    *owned = (struct owned){block, n, &a_realloc_site};
}
ALONE void a_reallocarray(struct owned *owned, size_t n) {
    void *block = reallocarray(owned->block, n / 5, 5); took(&a_reallocarray_site, block, n / 5 * 5);
    gave(owned->site, owned->size);
    *owned = (struct owned){block, n / 5 * 5, &a_reallocarray_site};
}
/* Some allocators free the block and answer NULL, others hand out another of no size. */
ALONE void a_realloc_to_nothing(struct owned *owned) {
    void *block = realloc(owned->block, 0);
    gave(owned->site, owned->size);
    if (block != NULL) took(&a_realloc_to_nothing_site, block, 0);
    *owned = (struct owned){block, 0, &a_realloc_to_nothing_site};
}
ALONE void give(struct owned *owned) {
    if (owned->block == NULL) return;
    free(owned->block);
    gave(owned->site, owned->size);
}

static uint64_t nulls;
ALONE void free_null(void) { free(NULL); truth_add(&nulls, 1); }

static void must_fail(const void *block) {
    if (block != NULL) truth_fail("an allocation succeeded that must not");
}
ALONE void fail(struct owned *owned) {
    void *untouched = NULL;
    must_fail(malloc(SIZE_MAX / 2));
    must_fail(calloc(SIZE_MAX / 2, 4));
    must_fail(realloc(owned->block, SIZE_MAX / 2));
    must_fail(reallocarray(owned->block, SIZE_MAX / 2, 4));
    if (posix_memalign(&untouched, 3, 100) == 0) truth_fail("posix_memalign succeeded");
}

typedef void *allocate(size_t n);
static allocate *const all[] = {a_malloc, a_calloc, a_calloc_of_many, a_realloc_of_null, a_reallocarray_of_null,
    an_aligned_alloc, a_memalign, a_valloc, a_posix_memalign};
static struct truth_site *const all_sites[] = {&a_malloc_site, &a_calloc_site, &a_calloc_of_many_site,
    &a_realloc_of_null_site, &a_reallocarray_of_null_site, &an_aligned_alloc_site, &a_memalign_site,
    &a_valloc_site, &a_posix_memalign_site};
enum { FUNCTIONS = sizeof all / sizeof *all };

static uint64_t rounds;
static pthread_barrier_t go, done, may_exit;

/* What becomes of a block. */
enum { REALLOC = 1, FAIL = 2, REALLOCARRAY = 4, NOTHING = 8, KEEP = 16 };

/* Every call stands here once, so that each site is one stack. */
ALONE void one_block(size_t f, uint64_t round, int ways) {
    size_t n = sizes[(round + f) % SIZES];
    /* aligned_alloc asks for a multiple of its alignment. */
    if (all[f] == an_aligned_alloc) n = n / 64 * 64;
    struct owned owned = {all[f](n), n, all_sites[f]};
    if (ways & REALLOC) a_realloc(&owned, sizes[(round + 2 * f) % SIZES] + 1);
    if (ways & FAIL) fail(&owned);
    if (ways & REALLOCARRAY) a_reallocarray(&owned, sizes[(round + 3 * f) % SIZES] + 5);
    if (ways & NOTHING) a_realloc_to_nothing(&owned);
    if (!(ways & KEEP)) give(&owned);
    free_null();
}

static int ways_of(uint64_t round) {
    if (round == rounds) return KEEP;
    if (round == rounds + 1) return KEEP | REALLOC;
    if (round == rounds + 2) return KEEP | REALLOCARRAY;
    return (round % 3 == 0 ? REALLOC : 0) | (round % 5 == 0 ? FAIL : 0) | (round % 7 == 0 ? REALLOCARRAY : 0) |
        (round % 11 == 0 ? NOTHING : 0);
}

static void *work(void *argument) {
    (void)argument;
    pthread_barrier_wait(&go);
    for (uint64_t round = 0; round < rounds + 3; round++)
        for (size_t f = 0; f < FUNCTIONS; f++) one_block(f, round, ways_of(round));
    pthread_barrier_wait(&done);
    pthread_barrier_wait(&may_exit);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 2) truth_fail("usage: placement ROUNDS");
    rounds = strtoull(argv[1], NULL, 10);
    pthread_barrier_init(&go, NULL, THREADS + 1);
    pthread_barrier_init(&done, NULL, THREADS + 1);
    pthread_barrier_init(&may_exit, NULL, THREADS + 1);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, NULL) != 0) truth_fail("pthread_create");
    step("ready");
    pthread_barrier_wait(&go);
    pthread_barrier_wait(&done);
    fact("free_null", nulls);
    tell_truth();
    pthread_barrier_wait(&may_exit);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    return 0;
}
