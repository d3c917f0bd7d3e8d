/* n pairs of malloc and free in one function; another leaks 100 bytes at every 1000th pair.
 * usage: pairs N */
#include "truth.h"

SITE(leak_100, "malloc");
ALONE void leak_100(void) {
    void *block = malloc(100); took(&leak_100_site, block, 100);
}

SITE(churn, "malloc");
ALONE void churn(size_t size) {
    void *block = malloc(size); took(&churn_site, block, size);
    free(block);
    gave(&churn_site, size);
}

ALONE void work(uint64_t pairs) {
    for (uint64_t pair = 1; pair <= pairs; pair++) {
        churn(16 + pair % 500);
        if (pair % 1000 == 0) leak_100();
    }
}

int main(int argc, char **argv) {
    uint64_t pairs = argc > 1 ? strtoull(argv[1], NULL, 10) : 10000;
    step("ready");
    work(pairs);
    tell_truth();
    return 0;
}
