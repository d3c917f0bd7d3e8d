/* A static program without any allocator: there is nothing to trace. */
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}
__attribute__((noreturn)) void _start(void) {
    char byte;
    call(1, 1, (long)"ready\n", 6);
    call(0, 0, (long)&byte, 1);
    call(60, 0, 0, 0);
    __builtin_unreachable();
}
