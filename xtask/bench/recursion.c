/* Pairs of malloc and free, 64 to 575 bytes, with so many frames on the stack at each call, malloc's own and those
 * of the C library's start included. Between two pairs the stack is built anew, on another path: functions of
 * three kinds call each other, with small, large and register-saving frames.
 *
 * usage: recursion FRAMES
 * Speaks as pairs.c does. Of each batch one block of 7777 bytes is left, so that a report has the stack. */
#include <execinfo.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { SMALLEST = 64, SIZES = 512, KEPT = 7777 };

static uint64_t done;
static size_t size;
static volatile uint64_t sink;

static uint64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

#define LEVEL __attribute__((noinline, noclone, noipa)) static
LEVEL void small(int levels, uint32_t path);
LEVEL void large(int levels, uint32_t path);
LEVEL uint64_t saving(int levels, uint32_t path, uint64_t a, uint64_t b, uint64_t c);

LEVEL void leaf(void) {
    void *block = malloc(size);
    /* Keeps the pair from being optimised away. */
    __asm__ volatile("" : "+r"(block) : : "memory");
    if (size != KEPT) free(block);
}

/* How many frames there are with no levels to go; negative: not known yet. By itself, so that the levels' frames are
 * as small as they are. */
static int measured;
LEVEL void measure(void) {
    void *frames[250];
    measured = backtrace(frames, 250) - 1;
}
static __attribute__((always_inline)) inline void next(int levels, uint32_t path) {
    if (levels == 0) {
        if (measured < 0) measure();
        else leaf();
        return;
    }
    uint32_t turned = path << 2 | path >> 30;
    switch (path & 3) {
    case 0: large(levels - 1, turned); break;
    case 1: sink = saving(levels - 1, turned, sink, path, 3); break;
    default: small(levels - 1, turned);
    }
}
LEVEL void small(int levels, uint32_t path) {
    next(levels, path);
    __asm__ volatile("" : : : "memory");
}
LEVEL void large(int levels, uint32_t path) {
    volatile char space[200];
    space[path % sizeof space] = 1;
    next(levels, path);
    sink += (uint64_t)space[0];
}
LEVEL uint64_t saving(int levels, uint32_t path, uint64_t a, uint64_t b, uint64_t c) {
    uint64_t x = a * 3 + b, y = b * 5 + c, z = c * 7 + a;
    next(levels, path);
    return x + y * z;
}

int main(int argc, char **argv) {
    int frames = argc == 2 ? atoi(argv[1]) : 0;
    measured = -1;
    small(0, 0);
    /* `leaf` and `malloc` come on top of what was measured. */
    int levels = frames - measured - 2;
    if (levels < 0 || frames > 126) {
        fprintf(stderr, "usage: recursion FRAMES, at least %d\n", measured + 2);
        return 2;
    }
    puts("ready");
    fflush(stdout);
    unsigned long milliseconds;
    while (scanf("%lu", &milliseconds) == 1) {
        uint64_t cpu = now_ns(CLOCK_THREAD_CPUTIME_ID), wall = now_ns(CLOCK_MONOTONIC), pairs = 0, now;
        size = KEPT;
        small(levels, 0x9e3779b9);
        do {
            for (int pair = 0; pair < 512; pair++, pairs++) {
                size = SMALLEST + done++ * 37 % SIZES;
                small(levels, (uint32_t)(done % 16) * 0x9e3779b9u);
            }
            now = now_ns(CLOCK_MONOTONIC);
        } while (now - wall < milliseconds * 1000000);
        printf("%lu %lu %lu\n", pairs, now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu, now - wall);
        fflush(stdout);
    }
    return 0;
}
