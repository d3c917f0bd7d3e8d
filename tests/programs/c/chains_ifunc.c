/* A call chain through the dynamic linker: the resolver of a function that is chosen when it is first called
 * allocates. Between it and `main` is the linker's trampoline, written by hand. Link it with chosen.c, lazily. */
#include "chain.h"

extern void (*on_choice)(void);
int pick(int number);
static void take_for_choice(void) {
    take_here("ifunc", 0);
    __asm__ volatile("" : : : "memory");
}

int main(void) {
    chain_prepare();
    on_choice = take_for_choice;
    step("ready");
    if (pick(1) != 2) truth_fail("the wrong function was chosen");
    tell_truth();
    return 0;
}
