/* Blocks of all sizes, from several threads: some stay, some are freed by their thread or by another, some
 * grow by realloc. What is done depends on the seed alone. usage: sampled SEED */
#include "truth.h"
#include <pthread.h>

enum { THREADS = 4, KEPT = 500, GROWN = 100, CHURNED = 2000, PASSED = 500 };

TAKES(keep, "malloc", malloc(n))
TAKES(keep_zeroed, "calloc", calloc(1, n))
TAKES(churn, "malloc", malloc(n))
GIVES(churn)
TAKES(pass, "malloc", malloc(n))
GIVES(pass)

SITE(grow, "realloc");
ALONE void *grow(void *old, size_t old_n, size_t n) {
    void *block = realloc(old, n); took(&grow_site, block, n);
    if (old != NULL) gave(&grow_site, old_n);
    return block;
}

struct item { void *block; size_t size; };
static struct item passed[THREADS][PASSED];
static uint64_t seed;
static pthread_barrier_t begin, all_passed, finished;

/* splitmix64, by Sebastiano Vigna, in the public domain. */
static uint64_t next(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

/* From 16 B to 1 MiB, each power of two as likely as any other. */
static size_t any_size(uint64_t *state) {
    size_t from = (size_t)16 << next(state) % 16;
    return from + next(state) % from;
}

static void *work(void *argument) {
    uintptr_t self = (uintptr_t)argument;
    pthread_barrier_wait(&begin);
    uint64_t state = seed * THREADS + self;
    for (int i = 0; i < CHURNED; i++) {
        size_t size = any_size(&state);
        churn_free(churn(size), size);
        if (i % (CHURNED / KEPT) == 0) {
            keep(any_size(&state));
            keep_zeroed(1024 + next(&state) % 1024);
        }
        if (i % (CHURNED / PASSED) == 1) {
            size_t handed = any_size(&state);
            struct item item = {pass(handed), handed};
            passed[self][i / (CHURNED / PASSED)] = item;
        }
        if (i % (CHURNED / GROWN) == 2) {
            size_t old = 0;
            void *block = NULL;
            for (size_t steps = 1 + next(&state) % 10, wanted = 100; steps > 0; steps--, wanted *= 2) {
                block = grow(block, old, wanted);
                old = wanted;
            }
        }
    }
    pthread_barrier_wait(&all_passed);
    /* Two of three, of the thread beside this one. */
    struct item *items = passed[(self + 1) % THREADS];
    for (int i = 0; i < PASSED; i++)
        if (i % 3 != 0) pass_free(items[i].block, items[i].size);
    pthread_barrier_wait(&finished);
    /* Lives as long as the process: glibc frees a thread's cache once more at its end. */
    for (;;) pause();
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t threads[THREADS];
    if (argc != 2) truth_fail("usage: sampled SEED");
    seed = strtoull(argv[1], NULL, 10);
    pthread_barrier_init(&begin, NULL, THREADS + 1);
    pthread_barrier_init(&all_passed, NULL, THREADS);
    pthread_barrier_init(&finished, NULL, THREADS + 1);
    /* Their own blocks are made before the tracer looks. */
    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)i) != 0) truth_fail("pthread_create");
    step("ready");
    pthread_barrier_wait(&begin);
    pthread_barrier_wait(&finished);
    tell_truth();
    return 0;
}
