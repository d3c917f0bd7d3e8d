/* Grows until it is told to stop, by KIB KiB a millisecond at most, and touches all of it. usage: grower malloc|brk|mmap|tide|days KIB
 * A tide grows by mmap and gives all back before "grown". Days are two of them, all alike: it rises, stays at "noon", and ebbs. The truth is what each function has touched. */
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

/* The newest block of the tide; the first word of each leads to the one before it. */
static char *newest;

ALONE static void grow_tide(size_t bytes) {
    char *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) truth_fail("mmap");
    touch(block, bytes);
    *(char **)block = newest;
    newest = block;
}

static void ebb(size_t bytes) {
    while (newest != NULL) {
        char *before = *(char **)newest;
        if (munmap(newest, bytes) != 0) truth_fail("munmap");
        newest = before;
    }
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

/* So many milliseconds, at least. */
static void rest(int steps) {
    while (steps-- > 0) poll(NULL, 0, 1);
}

static void days(size_t bytes) {
    for (int day = 0; day < 2; day++) {
        for (int steps = 0; steps < 6000; steps++) {
            grow_tide(bytes);
            rest(1);
        }
        step("noon");
        ebb(bytes);
        rest(1000);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) truth_fail("usage: grower malloc|brk|mmap|tide|days KIB");
    size_t bytes = strtoull(argv[2], NULL, 10) * 1024;
    step("ready");
    if (!strcmp(argv[1], "days")) {
        days(bytes);
        step("end");
        return 0;
    }
    while (!told()) {
        if (!strcmp(argv[1], "malloc")) grow_malloc(bytes);
        else if (!strcmp(argv[1], "brk")) grow_brk(bytes);
        else if (!strcmp(argv[1], "tide")) grow_tide(bytes);
        else grow_mmap(bytes);
    }
    char byte;
    if (read(0, &byte, 1) != 1) truth_fail("nobody is there");
    ebb(bytes);
    step("grown");
    static char line[64];
    int length = snprintf(line, sizeof line, "{\"touched\":%llu}\n", (unsigned long long)touched);
    truth_write(1, line, (size_t)length);
    step("end");
    return 0;
}
