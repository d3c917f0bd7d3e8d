/* Grows until it is told to stop, by KIB KiB each millisecond or less, and touches all of it. usage: grower malloc|brk|mmap KIB
 * The truth is what each function has touched. */
#include "truth.h"
#include <stdio.h>
#include <poll.h>
#include <sys/mman.h>

static uint64_t touched;

/* The one function that touches memory first; its caller says for what. */
ALONE static void touch(char *block, size_t bytes) {
    for (size_t at = 0; at < bytes; at += 4096) ((volatile char *)block)[at] = 1;
    truth_add(&touched, bytes);
}

ALONE static void grow_malloc(size_t bytes) {
    char *block = malloc(bytes);
    if (block == NULL) truth_fail("malloc");
    touch(block, bytes);
}

ALONE static void grow_brk(size_t bytes) {
    char *block = sbrk((intptr_t)bytes);
    if (block == (char *)-1) truth_fail("sbrk");
    touch(block, bytes);
}

ALONE static void grow_mmap(size_t bytes) {
    char *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) truth_fail("mmap");
    touch(block, bytes);
}

/* Waits a millisecond, or until the test says something: then 1. */
static int told(void) {
    struct pollfd input = {0, POLLIN, 0};
    return poll(&input, 1, 1) > 0;
}

int main(int argc, char **argv) {
    if (argc != 3) truth_fail("usage: grower malloc|brk|mmap KIB");
    size_t bytes = strtoull(argv[2], NULL, 10) * 1024;
    step("ready");
    while (!told()) {
        if (!strcmp(argv[1], "malloc")) grow_malloc(bytes);
        else if (!strcmp(argv[1], "brk")) grow_brk(bytes);
        else grow_mmap(bytes);
    }
    step("grown");
    static char line[64];
    int length = snprintf(line, sizeof line, "{\"touched\":%llu}\n", (unsigned long long)touched);
    truth_write(1, line, (size_t)length);
    step("end");
    return 0;
}
