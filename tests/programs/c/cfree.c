/* cfree, which no program can link any more and old ones still call: the same code as free in glibc. */
#include "truth.h"

__asm__(".symver old_cfree, cfree@GLIBC_2.2.5");
extern void old_cfree(void *);

TAKES(for_cfree, "malloc", malloc(n))
ALONE void by_cfree(void *block, size_t n) { old_cfree(block); gave(&for_cfree_site, n); }

int main(void) {
    step("ready");
    for (int i = 0; i < 6; i++) for_cfree(70);
    for (int i = 0; i < 9; i++) by_cfree(for_cfree(71), 71);
    tell_truth();
    return 0;
}
