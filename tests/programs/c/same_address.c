/* Run twice without address randomisation, its blocks have the same addresses in both processes. Each
 * frees every second one; the first argument is how many there are. */
#include "truth.h"

TAKES(numbered, "malloc", malloc(n))
GIVES(numbered)

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 10;
    size_t size = argc > 2 ? (size_t)atoi(argv[2]) : 100;
    void *blocks[64];
    if (count > 64) truth_fail("at most 64 blocks");
    step("ready");
    for (int i = 0; i < count; i++) blocks[i] = numbered(size);
    fact("first_address", (uint64_t)(uintptr_t)blocks[0]);
    step("allocated");
    for (int i = 0; i < count; i += 2) numbered_free(blocks[i], size);
    tell_truth();
    return 0;
}
