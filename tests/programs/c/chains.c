/* Call chains of every shape that C makes, at several depths. Build it in any way: what holds is what
 * backtrace() says. */
#define _GNU_SOURCE
#include "chain.h"
#include <alloca.h>
#include <pthread.h>

/* Keeps a call from being a jump, and its function from being taken for pure. */
#define AFTER __asm__ volatile("" : : : "memory")

static const char *shape;
static uint64_t wanted;
/* Of a level that is not to be inlined, merged or specialised. */
#define LEVEL __attribute__((noinline, noclone, noipa))

/* What every level of every shape ends in: the next level, or the allocation. */
static void (*next)(void);
LEVEL static void deeper(void) {
    if (chain_is(wanted)) take_here(shape, wanted);
    else next();
    AFTER;
}

/* Frames of several sizes and with several registers saved. */
static volatile uint64_t sink;
LEVEL static void plain(void) {
    deeper();
    AFTER;
}
LEVEL static uint64_t many_registers(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
    uint64_t x = a * 3 + b, y = c * 5 + d, z = e * 7 + f, u = a ^ f, v = b ^ e, w = c ^ d;
    deeper();
    return x + y * z + u * v + w;
}
LEVEL static void saved(void) { sink = many_registers(sink, 2, 3, 4, 5, 6); }
LEVEL static void wide(void) {
    volatile char space[9000];
    space[sink % sizeof space] = 1;
    deeper();
    AFTER;
}
LEVEL static void mixed(void) {
    sink++;
    switch (sink % 3) {
    case 0: plain(); break;
    case 1: saved(); break;
    default: wide();
    }
    AFTER;
}

/* Eight arguments: two are on the stack, and are pushed around the call. */
LEVEL static uint64_t eight(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
    deeper();
    return a + b + c + d + e + f + g + h;
}
LEVEL static void pushes(void) { sink = eight(1, 2, 3, 4, 5, 6, sink, 8); }

#ifdef __GLIBC__
/* Through the C library, unless that is musl, whose code has no unwind tables; deeper at the first comparison of each sort. */
struct element {
    int value;
    int *compared;
};
static int compare(const void *left, const void *right) {
    const struct element *one = left, *other = right;
    if ((*one->compared)++ == 0) deeper();
    return one->value - other->value;
}
LEVEL static void by_qsort(void) {
    int compared = 0;
    struct element two[2] = {{2, &compared}, {1, &compared}};
    qsort(two, 2, sizeof two[0], compare);
    AFTER;
}
static int found(const void *key, const void *element) {
    (void)key;
    (void)element;
    deeper();
    return 0;
}
LEVEL static void by_bsearch(void) {
    int one = 1;
    sink += bsearch(&one, &one, 1, sizeof one, found) != NULL;
}
#endif

/* The frame is found by rbp. */
LEVEL static void with_alloca(void) {
    volatile char *space = alloca(sink % 700 + 32);
    space[0] = 1;
    deeper();
    sink += (uint64_t)space[0];
}
LEVEL static void with_vla(void) {
    size_t size = sink % 500 + 8;
    volatile char space[size];
    space[size - 1] = 1;
    deeper();
    sink += (uint64_t)space[size - 1];
}

/* The stack is realigned, and the frame is found by a word in it where there is an argument on the stack
 * or an alloca as well. */
LEVEL static void aligned(void) {
    __attribute__((aligned(64))) volatile char space[128];
    space[sink % sizeof space] = 1;
    deeper();
    sink += (uint64_t)space[0];
}
LEVEL static uint64_t aligned_arguments(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g) {
    __attribute__((aligned(128))) volatile char space[256];
    volatile char *more = alloca(a % 100 + 40);
    space[b % sizeof space] = more[0] = 1;
    deeper();
    return c + d + e + f + g + (uint64_t)space[0];
}
LEVEL static void by_aligned_arguments(void) { sink = aligned_arguments(sink, 2, 3, 4, 5, 6, 7); }
#ifdef __x86_64__
__attribute__((force_align_arg_pointer)) LEVEL static void forced(void) {
    volatile char space[48];
    space[sink % sizeof space] = 1;
    deeper();
    sink += (uint64_t)space[0];
}
#endif

/* The call is in a part of the function that the compiler puts elsewhere. */
__attribute__((cold)) LEVEL static void unlikely(void) { deeper(); AFTER; }
LEVEL static void with_cold_part(void) {
    uint64_t kept = sink;
    if (__builtin_expect(kept != 0, 0)) {
        unlikely();
        sink = kept * 3;
    } else {
        sink = 1;
        unlikely();
    }
}

/* In a function that does not return: the return address is behind its end. */
__attribute__((noreturn)) LEVEL static void leaves(void **way_out) {
    deeper();
    __builtin_longjmp(way_out, 1);
}
LEVEL static void calls_noreturn(void) {
    void *way_out[5];
    if (__builtin_setjmp(way_out) == 0) leaves(way_out);
    AFTER;
}

LEVEL static void with_big_frame(void) {
    volatile char space[300000];
    space[sink % sizeof space] = 1;
    deeper();
    AFTER;
}

static const struct shape {
    const char *name;
    void (*level)(void);
} shapes[] = {
    {"plain", plain},
    {"mixed", mixed},
    {"pushes", pushes},
#ifdef __GLIBC__
    {"qsort", by_qsort},
    {"bsearch", by_bsearch},
#endif
    {"alloca", with_alloca},
    {"vla", with_vla},
    {"aligned", aligned},
    {"aligned_arguments", by_aligned_arguments},
#ifdef __x86_64__
    {"forced_alignment", forced},
#endif
    {"cold", with_cold_part},
    {"noreturn", calls_noreturn},
};
static const uint64_t depths[] = {2, 20, 60, 120};

LEVEL static void all_shapes(void) {
    for (size_t at = 0; at < sizeof shapes / sizeof shapes[0]; at++) {
        for (size_t depth = 0; depth < sizeof depths / sizeof depths[0]; depth++) {
            shape = shapes[at].name;
            wanted = depths[depth];
            next = shapes[at].level;
            sink = 7;
            next();
        }
    }
    shape = "big_frame";
    wanted = 12;
    next = with_big_frame;
    next();
}

/* Threads end in the C library's clone, and allocate once more when they end. */
static pthread_key_t key;
static void at_thread_end(void *name) { take_here(name, 0); }
static void *in_thread(void *name) {
    static char end[] = "thread_end";
    pthread_setspecific(key, end);
    shape = name;
    wanted = 20;
    next = mixed;
    next();
    return NULL;
}
LEVEL static void in_threads(void) {
    static char name[] = "thread";
    pthread_t thread;
    if (pthread_create(&thread, NULL, in_thread, name) != 0) truth_fail("pthread_create");
    pthread_join(thread, NULL);
}

int main(void) {
    chain_prepare();
    if (pthread_key_create(&key, at_thread_end) != 0) truth_fail("pthread_key_create");
    step("ready");
    all_shapes();
    in_threads();
    tell_truth();
    return 0;
}
