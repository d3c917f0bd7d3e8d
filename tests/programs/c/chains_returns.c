/* Call chains through functions on which somebody has a return probe. That puts another address in the place of
 * the return address, so that backtrace() ends there: it is asked in a first pass, before "ready", and the
 * blocks are taken in a second one, from the same calls.
 *
 * `watched` calls itself, so that one chain has several such addresses, directly one after another and apart. */
#include "chain.h"

#define AFTER __asm__ volatile("" : : : "memory")

static int asks;
static struct chain *now;

ALONE static void take_asked_before(void) {
    if (asks) now->count = chain_trace(now->frames, CHAIN_FRAMES);
    else {
        void *block = malloc(now->bytes);
        if (block == NULL) truth_fail("an allocation failed that must not");
        __asm__ volatile("" : : "r"(block) : "memory");
    }
}

ALONE void *watched(int kinds, int levels);
ALONE static void between(int kinds, int levels) {
    watched(kinds, levels);
    AFTER;
}
/* The lowest bit of `kinds` says whether the next call is direct. Returns a block, as an allocator does. */
ALONE void *watched(int kinds, int levels) {
    static char block[64];
    if (levels == 0) take_asked_before();
    else if (kinds & 1) watched(kinds >> 1, levels - 1);
    else between(kinds >> 1, levels - 1);
    AFTER;
    return block;
}

static struct chain *all[3];
static const struct { const char *name; int kinds, levels; } shapes[] = {
    {"once", 0, 0}, {"each", 0xff, 6}, {"mixed", 0x35, 7},
};

int main(void) {
    chain_prepare();
    for (int pass = 0; pass < 2; pass++) {
        asks = pass == 0;
        if (!asks) step("ready");
        for (int at = 0; at < 3; at++) {
            if (asks) all[at] = chain_new(shapes[at].name, "take_asked_before", (uint64_t)shapes[at].levels);
            now = all[at];
            watched(shapes[at].kinds, shapes[at].levels);
        }
    }
    tell_truth();
    return 0;
}
