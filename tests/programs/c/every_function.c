/* Each allocator function in a function of its own, with sizes that no other has; three blocks of each
 * stay, two are freed. usage: every_function [FUNCTION TO LEAVE OUT] */
#define _GNU_SOURCE
#include "truth.h"
#include <malloc.h>

#define BOTH(name, call, expression) TAKES(name, call, expression) GIVES(name)

BOTH(leak_malloc, "malloc", malloc(n))
BOTH(leak_malloc_zero, "malloc", malloc(n))
BOTH(leak_calloc, "calloc", calloc(n / 7, 7))
BOTH(leak_realloc, "realloc", realloc(NULL, n))
SITE(leak_posix_memalign, "posix_memalign");
ALONE void *leak_posix_memalign(size_t n) {
    void *block = NULL;
    int rc = posix_memalign(&block, 64, n); took(&leak_posix_memalign_site, rc == 0 ? block : NULL, n);
    return block;
}
GIVES(leak_posix_memalign)
/* glibc gives these two one address, so that either name may stand for both. */
BOTH(leak_aligned_alloc, "aligned_alloc|memalign", aligned_alloc(64, n))
BOTH(leak_memalign, "memalign|aligned_alloc", memalign(128, n))
/* Some C libraries jump from one function into another here; then the inner name is as good. */
BOTH(leak_valloc, "valloc|memalign|aligned_alloc", valloc(n))
BOTH(leak_reallocarray, "reallocarray|realloc", reallocarray(NULL, n / 5, 5))
#ifdef __GLIBC__
BOTH(leak_pvalloc, "pvalloc|memalign", pvalloc(n))
#endif

static const char *left_out = "";
static int wanted(const char *name) { return strcmp(left_out, name) != 0; }

#define RUN(name, function, size)                                                                  \
    if (wanted(function)) {                                                                        \
        for (int i = 0; i < 3; i++) name(size);                                                    \
        for (int i = 0; i < 2; i++) name##_free(name(size), size);                                 \
    }

int main(int argc, char **argv) {
    if (argc > 1) left_out = argv[1];
    step("ready");
    RUN(leak_malloc, "malloc", 101)
    RUN(leak_malloc_zero, "zero", 0)
    RUN(leak_calloc, "calloc", 7 * 31)
    RUN(leak_realloc, "realloc", 401)
    RUN(leak_posix_memalign, "posix_memalign", 601)
    RUN(leak_aligned_alloc, "aligned_alloc", 704)
    RUN(leak_memalign, "memalign", 801)
    RUN(leak_valloc, "valloc", 901)
    RUN(leak_reallocarray, "reallocarray", 5 * 103)
#ifdef __GLIBC__
    RUN(leak_pvalloc, "pvalloc", 1001)
#endif
    tell_truth();
    return 0;
}
