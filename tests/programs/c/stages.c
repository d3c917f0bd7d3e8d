/* Allocates a group of blocks at each step, so that a test can look in between. */
#include "truth.h"

TAKES(stage_one, "malloc", malloc(n))
TAKES(stage_two, "calloc", calloc(1, n))
TAKES(stage_three, "realloc", realloc(NULL, n))
GIVES(stage_one)

int main(void) {
    void *first[5];
    step("ready");
    for (int i = 0; i < 5; i++) first[i] = stage_one(1000); /* most bytes */
    step("one");
    for (int i = 0; i < 30; i++) stage_two(100); /* most blocks */
    step("two");
    stage_three(2000); /* largest block */
    step("three");
    stage_one_free(first[4], 1000);
    tell_truth();
    return 0;
}
