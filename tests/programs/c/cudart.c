/* Calls cudaMalloc of a runtime library that the argument names, on a machine without a GPU: each call fails, and nothing
 * is made. The prototype is written by hand from NVIDIA's documentation of the runtime API. */
#include "truth.h"
#include <dlfcn.h>

enum { CALLS = 3, SIZE = 1 << 20 };

static int (*cuda_malloc)(void **p, size_t n);

ALONE static int refused(void) {
    void *p = NULL;
    int result = cuda_malloc(&p, SIZE);
    /* The call must not be the function's last act, or the function would not be on the stack. */
    __asm__ volatile("" ::: "memory");
    return result;
}

int main(int count, char **words) {
    void *library = count > 1 ? dlopen(words[1], RTLD_NOW) : NULL;
    if (library == NULL) truth_fail("the runtime library does not load");
    cuda_malloc = (int (*)(void **, size_t))dlsym(library, "cudaMalloc");
    if (cuda_malloc == NULL) truth_fail("the runtime library has no cudaMalloc");
    step("ready");
    int result = 0;
    for (int i = 0; i < CALLS; i++) result = refused();
    fact("result", (uint64_t)result);
    fact("calls", CALLS);
    fact("bytes", (uint64_t)CALLS * SIZE);
    fact("largest", SIZE);
    tell_truth();
    return 0;
}
