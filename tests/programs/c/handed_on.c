/* Blocks from a function that gets them from another probed one. usage: handed_on BLOCKS */
#define _GNU_SOURCE
#include "truth.h"

TAKES(array, "reallocarray|realloc", reallocarray(NULL, n / 8, 8))

int main(int argc, char **argv) {
    if (argc != 2) truth_fail("usage: handed_on BLOCKS");
    step("ready");
    for (uint64_t left = strtoull(argv[1], NULL, 10); left > 0; left--) array(8192);
    tell_truth();
    return 0;
}
