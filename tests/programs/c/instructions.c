/* One function for each kind of instruction that allocators begin with, called in turn; the time of a call each.
 * Probes go on the symbols s_*. docs/probe-sites.md says how it is run. usage: instructions CALLS */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

long zero;

/* A function `f_name`: BEFORE, the instruction at `s_name`, AFTER, ret. */
#define FUNCTION(name, text, before, instruction, after)                                           \
    __asm__(".text\n.globl f_" #name "\n.type f_" #name ",@function\nf_" #name ":\n" before        \
            "\n.globl s_" #name "\n.type s_" #name ",@function\ns_" #name ":\n" instruction        \
            "\n" after "\nret\n.size f_" #name ",.-f_" #name "\n.size s_" #name ",.-s_" #name "\n"); \
    void f_##name(long, long);

#define ALL(ONE)                                                                                   \
    ONE(nop, "nop", "", "nop", "")                                                                 \
    ONE(nop_prefixed, "nop with a prefix", "", ".byte 0x66,0x90", "")                              \
    ONE(nop3, "nopl, 3 bytes", "", ".byte 0x0f,0x1f,0x00", "")                                     \
    ONE(nop5, "nopl, 5 bytes", "", ".byte 0x0f,0x1f,0x44,0,0", "")                                 \
    ONE(push, "push %rbp", "", "push %rbp", "pop %rbp")                                            \
    ONE(push12, "push %r12", "", "push %r12", "pop %r12")                                          \
    ONE(taken, "jne, taken", "test %rdi,%rdi", "jne 1f\n1:", "")                                   \
    ONE(not_taken, "je, not taken", "test %rdi,%rdi", "je 1f\n1:", "")                             \
    ONE(near, "jne, near", "test %rdi,%rdi", ".byte 0x0f,0x85,0,0,0,0", "")                        \
    ONE(jump, "jmp", "", "jmp 1f\n1:", "")                                                         \
    ONE(bound_jump, "bnd jmp", "", ".byte 0xf2\njmp 1f\n1:", "")                                   \
    ONE(call, "call", "", "call 1f\njmp 2f\n1: ret\n2:", "")                                       \
    ONE(endbr64, "endbr64", "", "endbr64", "")                                                     \
    ONE(sub, "sub $24,%rsp", "", "sub $0x18,%rsp", "add $0x18,%rsp")                               \
    ONE(copy, "mov %rdi,%rax", "", "mov %rdi,%rax", "")                                            \
    ONE(load, "mov zero(%rip),%rax", "", "mov zero(%rip),%rax", "")                                \
    ONE(test, "test %rdi,%rdi", "", "test %rdi,%rdi", "")                                          \
    ONE(compare, "cmpb $0,zero(%rip)", "", "cmpb $0,zero(%rip)", "")                               \
    ONE(clear, "xor %eax,%eax", "", "xor %eax,%eax", "")                                           \
    ONE(jump_slot, "jmp *slot(%rip)", "", "jmp *slot(%rip)\nback:", ".data\nslot: .quad back\n.text") \
    ONE(ret, "ret", "", "ret", "")

ALL(FUNCTION)

#define ROW(name, text, before, instruction, after) {text, f_##name},
static const struct { const char *text; void (*function)(long, long); } rows[] = {ALL(ROW)};

static double now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

int main(int argc, char **argv) {
    long calls = argc > 1 ? atol(argv[1]) : 10000;
    for (size_t row = 0; row < sizeof rows / sizeof *rows; row++) {
        double least_ns = 1e18;
        for (int round = 0; round < 5; round++) {
            double start_ns = now_ns();
            for (long call = 0; call < calls; call++) rows[row].function(1, 2);
            double call_ns = (now_ns() - start_ns) / (double)calls;
            if (call_ns < least_ns) least_ns = call_ns;
        }
        printf("| `%s` | %.2f |\n", rows[row].text, least_ns / 1000);
    }
    return 0;
}
