/* As pool_longjmp, but after a jump the next calls come from deeper in the stack: to whoever compares
 * stack pointers only, they look as if they were made inside the call that was left. */
#include "pool.h"
#include <setjmp.h>

static jmp_buf way_out;
ALONE void *pool_get(struct pool *pool, size_t size, int jump) {
    if (jump) longjmp(way_out, 1);
    return pool_take(pool, size);
}
ALONE void pool_put(void *block) { __asm__ volatile("" : : "r"(block)); }

SITE(deeper, "pool_get");
ALONE void deeper(size_t n, int depth) {
    volatile char room[512];
    room[0] = (char)depth;
    if (depth > 0) {
        deeper(n, depth - 1);
        room[1] = room[0];
        return;
    }
    void *block = pool_get(&the_pool, n, 0); took(&deeper_site, block, n);
    if (n % 2 == 0) {
        pool_put(block);
        gave(&deeper_site, n);
    }
}

int main(void) {
    step("ready");
    for (volatile int i = 0; i < 20; i++) {
        if (setjmp(way_out) == 0) pool_get(&the_pool, 1000, 1);
        expect_ledger("abandoned", 1);
        for (int j = 0; j < 4; j++) deeper(100 + (size_t)j, 3 + j);
    }
    tell_truth();
    return 0;
}
