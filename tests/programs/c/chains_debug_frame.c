/* A call chain that is known by its names: 20 levels of `down`. For code without .eh_frame, of which backtrace()
 * knows nothing. */
#include "truth.h"

TAKES(deep_leak, "malloc", malloc(n))

ALONE void down(int levels) {
    volatile char space[40];
    space[levels] = 1;
    if (levels == 1) deep_leak(37);
    else down(levels - 1);
    __asm__ volatile("" : : "r"(space[0]) : "memory");
}

int main(void) {
    step("ready");
    for (int i = 0; i < 3; i++) down(20);
    tell_truth();
    return 0;
}
