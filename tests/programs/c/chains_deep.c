/* Call chains of frames of 2 MiB, on a thread with a stack that has room for them, and one that is deeper than
 * any stack that is kept. */
#define _GNU_SOURCE
#include "chain.h"
#include <pthread.h>

#define AFTER __asm__ volatile("" : : : "memory")
enum { WIDE = 2 << 20, LEVELS = 20, TOO_DEEP = 400 };

SITE(deep_leak, "malloc");
ALONE static void *deep_leak(size_t n) { void *block = malloc(n); took(&deep_leak_site, block, n); return block; }

ALONE static void wide(int levels) {
    volatile char space[WIDE];
    space[(size_t)levels] = 1;
    if (levels == 0) take_here("wide", LEVELS);
    else wide(levels - 1);
    __asm__ volatile("" : : "r"(space[1]) : "memory");
}
ALONE static void by_alloca(int levels) {
    volatile char *space = __builtin_alloca(WIDE + (size_t)levels * 64);
    space[0] = 1;
    if (levels == 0) take_here("wide_alloca", LEVELS);
    else by_alloca(levels - 1);
    AFTER;
}
ALONE static void down(int levels) {
    if (levels == 0) deep_leak(33);
    else down(levels - 1);
    AFTER;
}
static void *run(void *argument) {
    wide(LEVELS);
    by_alloca(LEVELS);
    return argument;
}

int main(void) {
    pthread_attr_t large;
    pthread_t thread;
    chain_prepare();
    pthread_attr_init(&large);
    if (pthread_attr_setstacksize(&large, (size_t)WIDE * (LEVELS + 12)) != 0) truth_fail("a large stack");
    step("ready");
    if (pthread_create(&thread, &large, run, NULL) != 0) truth_fail("pthread_create");
    pthread_join(thread, NULL);
    for (int i = 0; i < 4; i++) down(TOO_DEEP);
    expect_ledger("stacks_truncated", 4);
    tell_truth();
    return 0;
}
