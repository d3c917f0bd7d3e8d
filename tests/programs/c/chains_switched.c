/* Call chains across signal handlers and changed stacks.
 * usage: chains_switched signal | altstack | fault | context | hand */
#define _GNU_SOURCE
#include "chain.h"
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#define AFTER __asm__ volatile("" : : : "memory")
enum { STACK = 256 * 1024, PAGE = 4096 };

static const char *shape;
ALONE static void down(int levels) {
    if (levels == 0) take_here(shape, 0);
    else down(levels - 1);
    AFTER;
}

static void *new_stack(void) {
    void *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED) truth_fail("mmap");
    return stack;
}

/* Handlers: one that is called for `raise`, one that mends the fault that it was called for. */
static void on_signal(int number) {
    (void)number;
    down(5);
}
static char *guarded;
static void on_fault(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)context;
    down(4);
    if (mprotect(guarded, PAGE, PROT_READ | PROT_WRITE) != 0 || info->si_addr != guarded) _exit(96);
}
static void handle(int number, int flags) {
    struct sigaction action = {.sa_flags = flags};
    if (flags & SA_SIGINFO) action.sa_sigaction = on_fault;
    else action.sa_handler = on_signal;
    if (sigaction(number, &action, NULL) != 0) truth_fail("sigaction");
}
ALONE static void raises(int levels) {
    if (levels == 0) raise(SIGUSR1);
    else raises(levels - 1);
    AFTER;
}
/* The instruction that faults is no call, and the stack pointer there is another than at the calls. */
ALONE static void touches(int levels, volatile char *where) {
    if (levels == 0) *where = 1;
    else touches(levels - 1, where);
    AFTER;
}
ALONE static uint64_t touches_between_pushes(volatile char *where) {
    uint64_t pushed = 3;
#ifdef __x86_64__
    __asm__ volatile("push %1\n\t.cfi_adjust_cfa_offset 8\n\tmovb $1,(%2)\n\tpop %0\n\t.cfi_adjust_cfa_offset -8"
                     : "=r"(pushed) : "r"(pushed), "r"(where) : "memory");
#else
    *where = 1;
#endif
    return pushed;
}
ALONE static void by_faults(void) {
    guarded = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (guarded == MAP_FAILED) truth_fail("mmap");
    shape = "fault";
    touches(6, guarded);
    if (mprotect(guarded, PAGE, PROT_READ) != 0) truth_fail("mprotect");
    shape = "fault_between_pushes";
    touches_between_pushes(guarded);
    AFTER;
}

/* Coroutines: each level runs on a stack of its own. */
static ucontext_t outside, inside;
static void in_context(void) {
    down(7);
    swapcontext(&inside, &outside);
    shape = "context_resumed";
    down(3);
}
ALONE static void by_contexts(void) {
    getcontext(&inside);
    inside.uc_stack.ss_sp = new_stack();
    inside.uc_stack.ss_size = STACK;
    inside.uc_link = &outside;
    makecontext(&inside, in_context, 0);
    shape = "context";
    swapcontext(&outside, &inside);
    swapcontext(&outside, &inside);
    shape = "after_context";
    down(2);
}

/* Calls `then` on another stack. The frame of this function is found by rbp, on the stack left behind. */
void on_stack(void *top, void (*then)(void));
#ifdef __x86_64__
__asm__(".text\n\t.type on_stack,@function\n"
        "on_stack:\n\t.cfi_startproc\n\t"
        "push %rbp\n\t.cfi_def_cfa_offset 16\n\t.cfi_offset %rbp,-16\n\t"
        "mov %rsp,%rbp\n\t.cfi_def_cfa_register %rbp\n\t"
        "mov %rdi,%rsp\n\tcall *%rsi\n\t"
        "mov %rbp,%rsp\n\tpop %rbp\n\t.cfi_def_cfa %rsp,8\n\tret\n\t.cfi_endproc\n\t.size on_stack,.-on_stack\n");
#endif
static char *low, *high;
ALONE static void on_high(void) {
    down(4);
    AFTER;
}
ALONE static void on_low(void) {
    shape = "hand_low";
    down(3);
    shape = "hand_high_above_low";
    on_stack(high + STACK, on_high);
}
ALONE static void by_hand(void) {
    char *one = new_stack(), *other = new_stack();
    low = one < other ? one : other;
    high = one < other ? other : one;
    on_stack(low + STACK, on_low);
    AFTER;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "signal";
    chain_prepare();
    step("ready");
    if (strcmp(mode, "signal") == 0) {
        handle(SIGUSR1, 0);
        shape = mode;
        raises(6);
    } else if (strcmp(mode, "altstack") == 0) {
        stack_t other = {.ss_sp = new_stack(), .ss_size = STACK};
        if (sigaltstack(&other, NULL) != 0) truth_fail("sigaltstack");
        handle(SIGUSR1, SA_ONSTACK);
        shape = mode;
        raises(6);
    } else if (strcmp(mode, "fault") == 0) {
        handle(SIGSEGV, SA_SIGINFO);
        by_faults();
    } else if (strcmp(mode, "context") == 0) {
        by_contexts();
    } else {
        by_hand();
    }
    tell_truth();
    return 0;
}
