/* Code made at run time that calls malloc, recorded as JIT compilers do it for perf: a file jit-PID.dump in the
 * folder of the first argument, a page of it mapped executable so that tracers learn of it (Linux
 * tools/perf/Documentation/jitdump-specification.txt). A first function is recorded, one at the same place after
 * it, and that one moved: what is called is the copy. */
#include "truth.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>

struct header {
    uint32_t magic, version, total_size, elf_mach, pad1, pid;
    uint64_t timestamp, flags;
};
struct record {
    uint32_t kind, total_size;
    uint64_t timestamp;
};
struct load {
    struct record head;
    uint32_t pid, tid;
    uint64_t vma, code_addr, code_size, code_index;
};
struct move {
    struct record head;
    uint32_t pid, tid;
    uint64_t vma, old_code_addr, new_code_addr, code_size, code_index;
};

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int dump;

static void put(const void *bytes, size_t length) { truth_write(dump, bytes, length); }

static void put_load(const char *name, const unsigned char *code, size_t length, uint64_t index) {
    struct load load = {{0, (uint32_t)(sizeof load + strlen(name) + 1 + length), now()},
                        (uint32_t)getpid(),
                        (uint32_t)getpid(),
                        (uintptr_t)code,
                        (uintptr_t)code,
                        length,
                        index};
    put(&load, sizeof load);
    put(name, strlen(name) + 1);
    put(code, length);
}

/* push %rbp; mov %rsp,%rbp; call *%rsi; pop %rbp; ret: calls the second argument with the first. */
static const unsigned char function[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd6, 0x5d, 0xc3};

int main(int argc, char **argv) {
    if (argc != 2) truth_fail("usage: jitted FOLDER");
    static char path[512];
    snprintf(path, sizeof path, "%s/jit-%d.dump", argv[1], getpid());
    dump = open(path, O_CREAT | O_TRUNC | O_RDWR, 0600);
    if (dump < 0) truth_fail("the dump cannot be made");
    struct header header = {0x4A695444, 1, sizeof header, 62, 0, (uint32_t)getpid(), now(), 0};
    put(&header, sizeof header);
    if (mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, dump, 0) == MAP_FAILED) truth_fail("no marker");
    unsigned char *code =
        mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED) truth_fail("no memory for code");
    memcpy(code, function, sizeof function);
    put_load("replaced_function", code, sizeof function, 1);
    step("ready");
    /* Recorded after leaktrace has looked, so that it has to look again. */
    put_load("jitted_function", code, sizeof function, 2);
    unsigned char *copy = code + 4096;
    memcpy(copy, function, sizeof function);
    struct move move = {{1, sizeof move, now()},
                        (uint32_t)getpid(),
                        (uint32_t)getpid(),
                        (uintptr_t)copy,
                        (uintptr_t)code,
                        (uintptr_t)copy,
                        sizeof function,
                        2};
    put(&move, sizeof move);
    void *(*call)(size_t, void *(*)(size_t)) = (void *(*)(size_t, void *(*)(size_t)))(uintptr_t)copy;
    if (call(5432, malloc) == NULL) truth_fail("no memory");
    struct record closed = {3, sizeof closed, now()};
    put(&closed, sizeof closed);
    tell_truth();
    return 0;
}
