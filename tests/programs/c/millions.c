/* Many churned blocks of all ages beside 1000 that stay. usage: millions CHURNED */
#include "truth.h"

TAKES(stay, "malloc", malloc(n))
TAKES(pass, "malloc", malloc(n))
GIVES(pass)

int main(int argc, char **argv) {
    enum { WINDOW = 512 };
    static void *window[WINDOW];
    static size_t sizes[WINDOW];
    uint64_t churned = argc > 1 ? strtoull(argv[1], NULL, 10) : 100000;
    uint64_t every = churned / 1000;
    if (every == 0) truth_fail("at least 1000 blocks");
    uint64_t random = 88172645463325252u;
    step("ready");
    for (uint64_t i = 0; i < churned; i++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        size_t slot = random % WINDOW;
        if (window[slot] != NULL) pass_free(window[slot], sizes[slot]);
        sizes[slot] = 16 + (random >> 32) % 2000;
        window[slot] = pass(sizes[slot]);
        if (i % every == 0 && i / every < 1000) stay(72);
    }
    for (size_t slot = 0; slot < WINDOW; slot++)
        if (window[slot] != NULL) pass_free(window[slot], sizes[slot]);
    tell_truth();
    return 0;
}
