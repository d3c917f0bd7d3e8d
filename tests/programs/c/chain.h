/* What fixtures share that know their own call chains: `take_here` asks the C library's backtrace(), then
 * allocates a block of a size that nothing else in the program asks for. The truth has them all as "chains".
 *
 * A chain's frames are return addresses, innermost first; the first is in `function` itself, at the call of
 * backtrace() rather than of malloc. 0 stands for an address that the fixture does not know.
 */
#ifndef CHAIN_H
#define CHAIN_H

#include "truth.h"

#ifdef __GLIBC__
#include <execinfo.h>
/* No function: its frame would be one of the chain. */
#define chain_trace backtrace
#else
#include <link.h>
#include <pthread.h>
#include <unwind.h>
/* libgcc refers to it weakly and calls it if any of the threads' functions is there. */
__attribute__((used)) static int (*const chain_once)(pthread_once_t *, void (*)(void)) = pthread_once;
/* Asked by libgcc for the tables of an address where it was built for glibc 2.35 and later, which has it. A
 * static program is one object. The struct is that of glibc's dlfcn.h. */
struct chain_found { unsigned long long flags; void *begin, *end, *map, *eh_frame; };
static int chain_eh_frame(struct dl_phdr_info *info, size_t size, void *found) {
    (void)size;
    for (int at = 0; at < info->dlpi_phnum; at++)
        if (info->dlpi_phdr[at].p_type == PT_GNU_EH_FRAME)
            ((struct chain_found *)found)->eh_frame = (void *)(info->dlpi_addr + info->dlpi_phdr[at].p_vaddr);
    return 1;
}
__attribute__((weak)) int _dl_find_object(void *address, struct chain_found *found) {
    (void)address;
    found->eh_frame = NULL;
    dl_iterate_phdr(chain_eh_frame, found);
    return found->eh_frame == NULL ? -1 : 0;
}
struct chain_walk { void **frames; int count, most; };
static _Unwind_Reason_Code chain_step(struct _Unwind_Context *context, void *data) {
    struct chain_walk *walk = (struct chain_walk *)data;
    if (walk->count < walk->most) walk->frames[walk->count++] = (void *)_Unwind_GetIP(context);
    return _URC_NO_REASON;
}
__attribute__((noinline)) static int chain_trace(void **frames, int most) {
    /* Its own frame is no part of the chain. */
    void *all[260];
    struct chain_walk walk = {all, 0, most + 1 < 260 ? most + 1 : 260};
    _Unwind_Backtrace(chain_step, &walk);
    for (int frame = 1; frame < walk.count; frame++) frames[frame - 1] = all[frame];
    return walk.count - 1;
}
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { CHAIN_FRAMES = 250, CHAINS = 512, CHAIN_SMALLEST = 20011, CHAIN_STEP = 16 };

struct chain {
    const char *name, *function;
    uint64_t depth, bytes;
    int count;
    void *frames[CHAIN_FRAMES];
};
static struct chain chain_all[CHAINS];
static uint64_t chain_count;

/* Begins a chain. `depth` is what was asked for; it only tells chains apart. */
static inline struct chain *chain_new(const char *name, const char *function, uint64_t depth) {
    uint64_t index = __atomic_fetch_add(&chain_count, 1, __ATOMIC_SEQ_CST);
    if (index >= CHAINS) truth_fail("too many chains");
    struct chain *chain = &chain_all[index];
    chain->name = name;
    chain->function = function;
    chain->depth = depth;
    chain->bytes = CHAIN_SMALLEST + index * CHAIN_STEP;
    return chain;
}

/* Adds a frame outside of the last. */
static inline void chain_push(struct chain *chain, void *address) {
    if (chain->count == CHAIN_FRAMES) truth_fail("a chain is too long");
    chain->frames[chain->count++] = address;
}

/* The plain case: here and now, by malloc. */
__attribute__((unused)) ALONE static void take_here(const char *name, uint64_t depth) {
    struct chain *chain = chain_new(name, "take_here", depth);
    chain->count = chain_trace(chain->frames, CHAIN_FRAMES);
    void *block = malloc(chain->bytes);
    if (block == NULL) truth_fail("an allocation failed that must not");
    __asm__ volatile("" : : "r"(block) : "memory");
}

/* Whether the caller has `depth` frames by now, its own and those of the C library's start included. */
__attribute__((unused)) ALONE static int chain_is(uint64_t depth) {
    void *frames[CHAIN_FRAMES];
    return (uint64_t)chain_trace(frames, CHAIN_FRAMES) - 1 >= depth;
}

static void chain_put(void) {
    truth_put(",\"chains\":[");
    for (uint64_t index = 0; index < truth_get(&chain_count); index++) {
        const struct chain *chain = &chain_all[index];
        truth_put(index ? ",{\"name\":\"" : "{\"name\":\"");
        truth_put(chain->name);
        truth_put("\",\"function\":\"");
        truth_put(chain->function);
        truth_put("\"");
        truth_put_field("depth", chain->depth);
        truth_put_field("bytes", chain->bytes);
        truth_put(",\"frames\":[");
        for (int frame = 0; frame < chain->count; frame++) {
            if (frame) truth_put(",");
            truth_put_number((uint64_t)chain->frames[frame]);
        }
        truth_put("]}");
    }
    truth_put("]");
}

/* To be called before "ready": backtrace() loads a library and allocates when it is first called. */
static inline void chain_prepare(void) {
    void *frames[4];
    (void)chain_trace(frames, 4);
    truth_more = chain_put;
}

#ifdef __cplusplus
}
#endif
#endif
