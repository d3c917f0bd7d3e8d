/* A pool that is cut from one heap block: its first block has the address of that block. */
#include "truth.h"

static char *slab;
static size_t used;

ALONE void *pool_get(size_t n) {
    void *block = slab + used;
    used += n;
    return block;
}
ALONE void pool_put(void *block) { __asm__ volatile("" : : "r"(block)); }

SITE(make_slab, "malloc");
ALONE void make_slab(void) {
    slab = malloc(65536); took(&make_slab_site, slab, 65536);
}

SITE(keep_two, "pool_get");
ALONE void keep_two(void) {
    for (int i = 0; i < 3; i++) {
        void *block = pool_get(100); took(&keep_two_site, block, 100);
        if (i == 1) {
            pool_put(block);
            gave(&keep_two_site, 100);
        }
    }
}

int main(void) {
    step("ready");
    make_slab();
    keep_two();
    tell_truth();
    return 0;
}
