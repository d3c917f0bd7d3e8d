/* Allocations that fail, ten of each, beside three that do not. Some get an out-pointer that must not be read. */
#define _GNU_SOURCE
#include "truth.h"
#include <malloc.h>

TAKES(kept, "malloc", malloc(n))

static void must_fail(const void *block) {
    if (block != NULL) truth_fail("an allocation succeeded that must not");
    expect_ledger("failed", 1);
}

ALONE void fail_malloc(void) { must_fail(malloc(SIZE_MAX / 2)); }
ALONE void fail_calloc(void) { must_fail(calloc(SIZE_MAX / 2, 4)); }
/* The product wraps round to a small number. */
ALONE void fail_calloc_wrapping(void) { must_fail(calloc((size_t)1 << 63, 2)); }
ALONE void fail_realloc(void) { must_fail(realloc(NULL, SIZE_MAX / 2)); }
ALONE void fail_reallocarray(void) { must_fail(reallocarray(NULL, SIZE_MAX / 2, 4)); }
ALONE void fail_aligned_alloc(void) { must_fail(aligned_alloc(64, SIZE_MAX / 2 / 64 * 64)); }
ALONE void fail_memalign(void) { must_fail(memalign(64, SIZE_MAX / 2)); }
ALONE void fail_valloc(void) { must_fail(valloc(SIZE_MAX / 2)); }
ALONE void fail_pvalloc(void) { must_fail(pvalloc(SIZE_MAX - 5)); }

ALONE void fail_posix_memalign_size(void) {
    void *block = (void *)(uintptr_t)0xdeadbeef000; /* looks like an address, is none */
    if (posix_memalign(&block, 64, SIZE_MAX / 2) == 0) truth_fail("posix_memalign succeeded");
    expect_ledger("failed", 1);
}

ALONE void fail_posix_memalign_alignment(void) {
    /* The alignment is checked first: the out-pointer is unmapped and never touched. */
    if (posix_memalign((void **)(uintptr_t)0x10, 3, 100) == 0) truth_fail("posix_memalign succeeded");
    expect_ledger("failed", 1);
}

int main(void) {
    step("ready");
    for (int i = 0; i < 10; i++) {
        fail_malloc();
        fail_calloc();
        fail_calloc_wrapping();
        fail_realloc();
        fail_reallocarray();
        fail_aligned_alloc();
        fail_memalign();
        fail_valloc();
        fail_pvalloc();
        fail_posix_memalign_size();
        fail_posix_memalign_alignment();
    }
    for (int i = 0; i < 3; i++) kept(77);
    tell_truth();
    return 0;
}
