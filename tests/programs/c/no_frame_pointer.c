/* Built without frame pointers: the immediate caller of malloc is on the stack all the same. */
#include "truth.h"

TAKES(leaf_caller, "malloc", malloc(n))
TAKES(leaf_calloc_caller, "calloc", calloc(3, n / 3))
SITE(leaf_memalign_caller, "posix_memalign");
ALONE void *leaf_memalign_caller(size_t n) {
    void *block = NULL;
    int rc = posix_memalign(&block, 32, n); took(&leaf_memalign_caller_site, rc == 0 ? block : NULL, n);
    return block;
}

int main(void) {
    step("ready");
    for (int i = 0; i < 5; i++) {
        leaf_caller(50);
        leaf_calloc_caller(60);
        leaf_memalign_caller(70);
    }
    tell_truth();
    return 0;
}
