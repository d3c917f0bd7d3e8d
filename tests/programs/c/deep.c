/* Allocates below more frames than a report can hold, and below few. */
#include "truth.h"

TAKES(deep_leak, "malloc", malloc(n))
TAKES(shallow_leak, "malloc", malloc(n))

ALONE void descend(int depth) {
    if (depth == 0) deep_leak(31);
    else descend(depth - 1);
    __asm__ volatile("");
}

int main(void) {
    step("ready");
    for (int i = 0; i < 4; i++) descend(300);
    expect_ledger("stacks_truncated", 4);
    shallow_leak(32);
    tell_truth();
    return 0;
}
