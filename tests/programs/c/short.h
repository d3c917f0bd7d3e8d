/* What a short-lived process does, alone or as a child of `storm`: it leaks, and its answer can be right
 * only if its memory was. */
#ifndef SHORT_H
#define SHORT_H

#include "truth.h"

/* Leaks `blocks` blocks of `size` bytes in a function of this name, beside as many that are freed. */
SITE(short_leak, "malloc");
ALONE void *short_leak(size_t n) { void *block = malloc(n); took(&short_leak_site, block, n); return block; }
ALONE void *short_keep(size_t n) { return malloc(n); }

/* Each of the blocks is filled from `token`; what is read back from all of them is the answer. */
static inline uint64_t short_work(uint64_t token, uint64_t blocks, size_t size) {
    uint64_t answer = 0;
    for (uint64_t i = 0; i < blocks; i++) {
        unsigned char *leaked = short_leak(size), *kept = short_keep(size);
        if (kept == NULL) truth_fail("malloc");
        memset(leaked, (int)((token + i) & 0xff), size);
        memset(kept, (int)(i & 0xff), size);
        for (size_t at = 0; at < size; at++) answer += (uint64_t)leaked[at] + kept[at];
        free(kept);
    }
    return answer;
}

/* What `short_work` must answer, without memory. */
static inline uint64_t short_answer(uint64_t token, uint64_t blocks, size_t size) {
    uint64_t answer = 0;
    for (uint64_t i = 0; i < blocks; i++) answer += (((token + i) & 0xff) + (i & 0xff)) * size;
    return answer;
}

/* A number on a line, in a buffer of 24 bytes; returns its length. */
static inline size_t short_line(uint64_t value, char *line) {
    char digits[24];
    size_t at = sizeof digits;
    digits[--at] = '\n';
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    memcpy(line, digits + at, sizeof digits - at);
    return sizeof digits - at;
}

/* The whole of a short life, from the work to the answer on stdout. */
static inline void short_life(uint64_t token, uint64_t blocks, size_t size) {
    char line[24];
    size_t length = short_line(short_work(token, blocks, size), line);
    truth_write(1, line, length);
}

#endif
