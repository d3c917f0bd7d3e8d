/* Custom allocators of every shape: result returned, result through a pointer, count times size. */
#include "pool.h"

ALONE void *pool_get(struct pool *pool, size_t size) { return pool_take(pool, size); }
ALONE void pool_put(void *block) { __asm__ volatile("" : : "r"(block)); }
ALONE int pool_out(size_t size, void **out) {
    if (size > sizeof pool_arena) return 12;
    *out = pool_take(&the_pool, size);
    return 0;
}
ALONE void *pool_array(struct pool *pool, size_t count, size_t size) { return pool_take(pool, count * size); }
/* Not named to the tracer. */
ALONE void *pool_other(size_t size) { return pool_take(&the_pool, size); }

TAKES(use_get, "pool_get", pool_get(&the_pool, n))
TAKES(use_array, "pool_array", pool_array(&the_pool, n / 6, 6))
SITE(use_out, "pool_out");
ALONE void *use_out(size_t n) {
    void *block = NULL;
    pool_out(n, &block); took(&use_out_site, block, n);
    return block;
}
ALONE void fail_out(void) {
    void *block = (void *)(uintptr_t)0xdead000;
    if (pool_out(SIZE_MAX / 2, &block) == 0) truth_fail("pool_out succeeded");
    expect_ledger("failed", 1);
}
ALONE void fail_get(void) {
    if (pool_get(&the_pool, sizeof pool_arena + 1) != NULL) truth_fail("pool_get succeeded");
    the_pool.used = 0;
    expect_ledger("failed", 1);
}
ALONE void put(struct truth_site *site, void *block, size_t n) { pool_put(block); gave(site, n); }

int main(void) {
    step("ready");
    fail_get();
    fail_out();
    for (int i = 0; i < 7; i++) {
        void *got = use_get(100), *array = use_array(66), *out = use_out(300);
        pool_other(400);
        if (i % 2 == 0) put(&use_get_site, got, 100);
        if (i % 3 == 0) put(&use_array_site, array, 66);
        if (i % 4 == 0) put(&use_out_site, out, 300);
    }
    pool_put(NULL);
    tell_truth();
    return 0;
}
