/* mimalloc's own interface, its aligned and zeroing forms included. */
#include "truth.h"
#include <mimalloc.h>

TAKES(use_malloc, "malloc", mi_malloc(n))
TAKES(use_zalloc, "zalloc|calloc", mi_zalloc(n))
TAKES(use_calloc, "calloc", mi_calloc(n / 4, 4))
TAKES(use_malloc_aligned, "malloc_aligned|aligned_alloc", mi_malloc_aligned(n, 128))
TAKES(use_zalloc_aligned, "zalloc_aligned|aligned_alloc", mi_zalloc_aligned(n, 128))
SITE(use_realloc, "realloc");
ALONE void *use_realloc(void *old, size_t old_n, size_t n) {
    void *block = mi_realloc(old, n); took(&use_realloc_site, block, n);
    gave(&use_malloc_site, old_n);
    return block;
}
ALONE void use_free(struct truth_site *site, void *block, size_t n) { mi_free(block); gave(site, n); }

int main(void) {
    mi_free(mi_malloc(1));
    step("ready");
    for (int i = 0; i < 6; i++) {
        use_malloc(310);
        use_free(&use_malloc_site, use_malloc(311), 311);
        use_zalloc(312);
        use_free(&use_zalloc_site, use_zalloc(313), 313);
        use_calloc(4 * 79);
        use_malloc_aligned(640);
        use_free(&use_malloc_aligned_site, use_malloc_aligned(641), 641);
        use_zalloc_aligned(642);
        use_realloc(use_malloc(320), 320, 3200);
    }
    tell_truth();
    return 0;
}
