/* jemalloc's own interface. */
#include "truth.h"
#include <jemalloc/jemalloc.h>

TAKES(use_mallocx, "mallocx", mallocx(n, 0))
TAKES(use_mallocx_aligned, "mallocx", mallocx(n, MALLOCX_ALIGN(256)))
SITE(use_rallocx, "rallocx");
ALONE void *use_rallocx(void *old, size_t old_n, size_t n) {
    void *block = rallocx(old, n, 0); took(&use_rallocx_site, block, n);
    gave(&use_mallocx_site, old_n);
    return block;
}
ALONE void use_dallocx(void *block, size_t n) { dallocx(block, 0); gave(&use_mallocx_site, n); }
ALONE void use_sdallocx(void *block, size_t n) { sdallocx(block, n, 0); gave(&use_mallocx_site, n); }
ALONE void fail_mallocx(void) {
    if (mallocx(SIZE_MAX / 2 + 1, 0) != NULL) truth_fail("mallocx succeeded");
    expect_ledger("failed", 1);
}

int main(void) {
    dallocx(mallocx(1, 0), 0);
    step("ready");
    for (int i = 0; i < 6; i++) {
        use_mallocx(210);
        use_mallocx_aligned(220);
        use_dallocx(use_mallocx(211), 211);
        use_sdallocx(use_mallocx(212), 212);
        use_rallocx(use_mallocx(213), 213, 2130);
        fail_mallocx();
    }
    tell_truth();
    return 0;
}
