/* pool_get is left by longjmp at every third call: such a call hands out nothing. */
#include "pool.h"
#include <setjmp.h>

static jmp_buf way_out;
/* Deeper in the stack than its caller, as real error paths are. */
ALONE static void give_up(int depth) {
    volatile char room[256];
    room[0] = (char)depth;
    if (depth == 0) longjmp(way_out, 1);
    if (depth > 0) give_up(depth - 1);
    room[1] = room[0];
}
ALONE void *pool_get(struct pool *pool, size_t size, int jump) {
    if (jump) give_up(5);
    return pool_take(pool, size);
}
ALONE void pool_put(void *block) { __asm__ volatile("" : : "r"(block)); }

SITE(jumpy, "pool_get");
ALONE void jumpy(size_t n, int jump) {
    void *block = pool_get(&the_pool, n, jump); took(&jumpy_site, block, n);
    if (n % 2 == 0) {
        pool_put(block);
        gave(&jumpy_site, n);
    }
}

int main(void) {
    step("ready");
    for (volatile int i = 0; i < 30; i++) {
        if (setjmp(way_out) == 0) jumpy(100 + (size_t)i, i % 3 == 0);
        else expect_ledger("abandoned", 1);
    }
    tell_truth();
    return 0;
}
