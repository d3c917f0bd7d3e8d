/* realloc in all its forms. Five blocks each; sizes tell the forms apart. */
#define _GNU_SOURCE
#include "truth.h"

#define HUGE_SIZE (SIZE_MAX / 4)

/* `name` moves a block of `from` that has `old` bytes to `n` bytes. */
#define MOVES(name, from, call, expression)                                                        \
    SITE(name, call);                                                                              \
    ALONE void *name(void *old, size_t old_n, size_t n) {                                          \
        void *block = (expression); took(&name##_site, block, n);                                  \
        gave(&from##_site, old_n);                                                                 \
        return block;                                                                              \
    }

TAKES(base, "malloc", malloc(n))
GIVES(base)
TAKES(kept_base, "malloc", malloc(n))
GIVES(kept_base)
MOVES(grow, base, "realloc", realloc(old, n))
MOVES(grow_moving, base, "realloc", realloc(old, n))
MOVES(shrink, base, "realloc", realloc(old, n))
MOVES(same_size, base, "realloc", realloc(old, n))
MOVES(array_grow, base, "reallocarray|realloc", reallocarray(old, n / 8, 8))
TAKES(from_null, "realloc", realloc(NULL, n))
GIVES(from_null)

SITE(chain, "realloc");
ALONE void *chain(void *old, size_t old_n, size_t n) {
    void *block = realloc(old, n); took(&chain_site, block, n);
    if (old != NULL) gave(&chain_site, old_n);
    return block;
}
GIVES(chain)

ALONE void to_zero(void *block, size_t n) {
    if (realloc(block, 0) != NULL) truth_fail("realloc(p, 0) is not free here");
    gave(&base_site, n);
}

ALONE void fail(void *block) {
    if (realloc(block, HUGE_SIZE) != NULL) truth_fail("a huge realloc succeeded");
    expect_ledger("failed", 1);
}

ALONE void fail_array(void *block) {
    if (reallocarray(block, SIZE_MAX / 2, 4) != NULL) truth_fail("an overflowing reallocarray succeeded");
    expect_ledger("failed", 1);
}

int main(void) {
    step("ready");
    for (int i = 0; i < 5; i++) {
        grow(base(100), 100, 120);
        void *first = base(100);
        base(99); /* stands in the way, so that the first cannot grow in place */
        grow_moving(first, 100, 5000);
        shrink(base(4000), 4000, 200);
        same_size(base(333), 333, 333);
        array_grow(base(64), 64, 640);
        from_null(77);
        from_null_free(from_null(77), 77);
        to_zero(base(55), 55);

        /* The old block survives a failure, under its own stack, and can be freed or moved later. */
        void *old = kept_base(610);
        fail(old);
        fail_array(old);
        void *freed_later = kept_base(611);
        fail(freed_later);
        kept_base_free(freed_later, 611);
        fail(NULL);

        /* Large blocks move by mremap. */
        void *block = NULL;
        size_t size = 0;
        for (size_t next = 10; next <= 1000 * 1000; next = next * 3 / 2) {
            block = chain(block, size, next);
            size = next;
        }
        if (i > 0) chain_free(block, size);
    }
    tell_truth();
    return 0;
}
