/* The pool is emptied at one stroke, which no probe sees: the same addresses are handed out again. */
#include "pool.h"

ALONE void *pool_get(struct pool *pool, size_t size) { return pool_take(pool, size); }
ALONE void pool_put(void *block) { __asm__ volatile("" : : "r"(block)); }
ALONE void pool_reset(struct pool *pool) { pool->used = 0; }

TAKES(first_round, "pool_get", pool_get(&the_pool, n))
TAKES(second_round, "pool_get", pool_get(&the_pool, n))

int main(void) {
    step("ready");
    for (int i = 0; i < 12; i++) first_round(64);
    pool_reset(&the_pool);
    /* Eight of the twelve addresses come again; their first blocks are gone, the other four look alive. */
    for (int i = 0; i < 8; i++) {
        second_round(64);
        gave(&first_round_site, 64);
        expect_ledger("free_missed", 1);
    }
    tell_truth();
    return 0;
}
