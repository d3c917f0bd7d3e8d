/* BLOCKS live blocks from SITES distinct stacks: each stack spells its number in calls of ten functions.
 * usage: many_sites BLOCKS SITES */
#include "truth.h"

SITE(bottom, "malloc");
ALONE void bottom(size_t size) { void *block = malloc(size); took(&bottom_site, block, size); }

static void walk(uint64_t digits, int depth, size_t size);
#define DIGIT(n) ALONE void digit_##n(uint64_t digits, int depth, size_t size) { walk(digits, depth, size); }
DIGIT(0) DIGIT(1) DIGIT(2) DIGIT(3) DIGIT(4) DIGIT(5) DIGIT(6) DIGIT(7) DIGIT(8) DIGIT(9)
typedef void digit_function(uint64_t, int, size_t);
static digit_function *const digits_table[10] = {digit_0, digit_1, digit_2, digit_3, digit_4,
                                                 digit_5, digit_6, digit_7, digit_8, digit_9};

ALONE static void walk(uint64_t digits, int depth, size_t size) {
    if (depth == 0) bottom(size);
    else digits_table[digits % 10](digits / 10, depth - 1, size);
    /* Keeps the call above from being a jump. */
    __asm__ volatile("");
}

int main(int argc, char **argv) {
    if (argc != 3) truth_fail("usage: many_sites BLOCKS SITES");
    uint64_t blocks = strtoull(argv[1], NULL, 10), sites = strtoull(argv[2], NULL, 10);
    int depth = 0;
    for (uint64_t reach = 1; reach < sites; reach *= 10) depth++;
    step("ready");
    for (uint64_t block = 0; block < blocks; block++) walk(block % sites, depth, 16 + block % 48);
    tell_truth();
    return 0;
}
