/* Allocates before main: for `leaktrace -- CMD`, which must see the first allocation of a program. */
#include "truth.h"

TAKES(in_constructor, "malloc", malloc(n))
TAKES(in_main, "calloc", calloc(1, n))
GIVES(in_constructor)

static void *early[4];
__attribute__((constructor)) static void before_main(void) {
    for (int i = 0; i < 4; i++) early[i] = in_constructor(123);
}

int main(void) {
    in_constructor_free(early[3], 123);
    for (int i = 0; i < 2; i++) in_main(45);
    tell_truth();
    return 6;
}
