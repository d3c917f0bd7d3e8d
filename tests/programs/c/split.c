/* A leak below functions of known lines, built to have its debug information moved elsewhere: which names the
 * report has for it then is the test's business. A block for each of two paths: one inlined, one not. */
#include "truth.h"

static inline __attribute__((always_inline)) void *inlined(size_t size) {
    void *block = malloc(size);
    __asm__ volatile("" : "+r"(block));
    return block;
}

ALONE void *outer(size_t size) {
    void *block = inlined(size);
    __asm__ volatile("" : "+r"(block));
    return block;
}

int main(void) {
    step("ready");
    void *block = outer(4321);
    if (block == NULL) truth_fail("no memory");
    tell_truth();
    return 0;
}
