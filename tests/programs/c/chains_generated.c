/* Call chains through code that is made at run time, of which nobody has unwind tables. backtrace() ends there:
 * the chain is put together of what it says on either side and of the address that is known in between.
 * usage: chains_generated frame_pointer | none */
#include "chain.h"
#include <sys/mman.h>

#define AFTER __asm__ volatile("" : : : "memory")

/* rdi: what to call. With a frame pointer:  push %rbp; mov %rsp,%rbp; call *%rdi; pop %rbp; ret */
static const unsigned char with[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};
/* Without:  sub $40,%rsp; call *%rdi; add $40,%rsp; ret */
static const unsigned char without[] = {0x48, 0x83, 0xec, 0x28, 0xff, 0xd7, 0x48, 0x83, 0xc4, 0x28, 0xc3};
/* Both call with their fifth and sixth byte. */
enum { CALL_END = 6 };

static char *code;
static const char *shape;
static void *outer[CHAIN_FRAMES];
static int outer_count;

ALONE static void take_inside(void) {
    struct chain *chain = chain_new(shape, "take_inside", 0);
    chain->count = 0;
    chain_push(chain, NULL);
    chain_push(chain, code + CALL_END);
    /* In `through`, whose own call it is that backtrace() was not asked at. */
    chain_push(chain, NULL);
    for (int frame = 1; frame < outer_count; frame++) chain_push(chain, outer[frame]);
    void *block = malloc(chain->bytes);
    if (block == NULL) truth_fail("an allocation failed that must not");
    __asm__ volatile("" : : "r"(block) : "memory");
}

ALONE static void through(void) {
    outer_count = chain_trace(outer, CHAIN_FRAMES);
    ((void (*)(void (*)(void)))(uintptr_t)code)(take_inside);
    AFTER;
}
ALONE static void down(int levels) {
    if (levels == 0) through();
    else down(levels - 1);
    AFTER;
}

int main(int argc, char **argv) {
    shape = argc > 1 ? argv[1] : "frame_pointer";
    int framed = strcmp(shape, "frame_pointer") == 0;
    chain_prepare();
    code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED) truth_fail("mmap");
    memcpy(code, framed ? with : without, framed ? sizeof with : sizeof without);
    step("ready");
    down(4);
    tell_truth();
    return 0;
}
