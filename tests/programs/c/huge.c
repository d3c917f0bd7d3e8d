/* Sizes and sums beyond 32 and 40 bits; the pages are never touched. usage: huge BLOCKS */
#include "truth.h"

#define GIB ((size_t)1 << 30)
TAKES(five_gib, "malloc", malloc(n))
GIVES(five_gib)
TAKES(wide_calloc, "calloc", calloc(n / 16, 16))
SITE(grown, "realloc");
ALONE void *grown(void *old, size_t old_n, size_t n) {
    void *block = realloc(old, n); took(&grown_site, block, n);
    gave(&five_gib_site, old_n);
    return block;
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 3;
    step("ready");
    for (int i = 0; i < count; i++) five_gib(5 * GIB + 1);
    five_gib_free(five_gib(5 * GIB), 5 * GIB);
    grown(five_gib(5 * GIB), 5 * GIB, 6 * GIB + 7);
    wide_calloc(4 * GIB + 16);
    tell_truth();
    return 0;
}
