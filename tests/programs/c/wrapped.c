/* Runs under the wrapper: every call is one block, however many functions it passes. */
#define _GNU_SOURCE
#include "truth.h"
#include <dlfcn.h>

TAKES(wrapped_malloc, "malloc", malloc(n))
GIVES(wrapped_malloc)
TAKES(wrapped_calloc, "calloc", calloc(1, n))
GIVES(wrapped_calloc)
SITE(wrapped_realloc, "realloc");
ALONE void *wrapped_realloc(void *old, size_t old_n, size_t n) {
    void *block = realloc(old, n); took(&wrapped_realloc_site, block, n);
    gave(&wrapped_malloc_site, old_n);
    return block;
}
SITE(wrapped_memalign, "posix_memalign");
ALONE void *wrapped_memalign(size_t n) {
    void *block = NULL;
    int rc = posix_memalign(&block, 64, n); took(&wrapped_memalign_site, rc == 0 ? block : NULL, n);
    return block;
}
ALONE void fail_realloc(void *old) {
    if (realloc(old, SIZE_MAX / 2) != NULL) truth_fail("a huge realloc succeeded");
    expect_ledger("failed", 1);
}

int main(void) {
    void (*free_sized)(void *, size_t) = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "free_sized");
    void (*free_aligned_sized)(void *, size_t, size_t) =
        (void (*)(void *, size_t, size_t))dlsym(RTLD_DEFAULT, "free_aligned_sized");
    void (*cfree)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "cfree");
    if (free_sized == NULL || free_aligned_sized == NULL || cfree == NULL) truth_fail("not under the wrapper");
    step("ready");
    for (int i = 0; i < 4; i++) {
        wrapped_malloc(110);
        wrapped_malloc_free(wrapped_malloc(111), 111);
        wrapped_calloc(112);
        wrapped_calloc_free(wrapped_calloc(113), 113);
        wrapped_realloc(wrapped_malloc(114), 114, 1140);
        fail_realloc(wrapped_malloc(115));
        wrapped_memalign(116);
        free_sized(wrapped_malloc(117), 117);
        gave(&wrapped_malloc_site, 117);
        free_aligned_sized(wrapped_memalign(118), 64, 118);
        gave(&wrapped_memalign_site, 118);
        cfree(wrapped_malloc(119));
        gave(&wrapped_malloc_site, 119);
    }
    tell_truth();
    return 0;
}
