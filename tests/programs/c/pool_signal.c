/* A signal arrives inside pool_get, and its handler calls pool_get too. To the tracer that is a nested
 * call, silent by rule; a signal outside pool_get is an ordinary one. */
#include "pool.h"
#include <signal.h>

static volatile int raise_inside;
ALONE void *pool_get(struct pool *pool, size_t size) {
    void *block = pool_take(pool, size);
    if (raise_inside) raise(SIGUSR1);
    return block;
}
ALONE void pool_put(void *block) { __asm__ volatile("" : : "r"(block)); }

TAKES(outer, "pool_get", pool_get(&the_pool, n))
TAKES(in_handler, "pool_get", pool_get(&the_pool, n))
static volatile int inside;
ALONE void nested_in_handler(size_t n) { pool_get(&the_pool, n); expect_ledger("nested", 1); }

static void handler(int signal) {
    (void)signal;
    raise_inside = 0;
    if (inside) nested_in_handler(24);
    else in_handler(32);
}

int main(void) {
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGUSR1, &action, NULL);
    step("ready");
    for (int i = 0; i < 10; i++) {
        inside = raise_inside = 1;
        void *block = outer(48);
        inside = raise_inside = 0;
        if (i < 4) {
            pool_put(block);
            gave(&outer_site, 48);
        }
        raise(SIGUSR1);
    }
    tell_truth();
    return 0;
}
