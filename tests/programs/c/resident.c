#define _GNU_SOURCE
/* Memory of every kind, touched and not. Pages are small: what is there is what was touched.
 * usage: resident half | reserved | parts | direct | stacks | reused | given_back | shared */
#include "truth.h"
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define MIB ((size_t)1 << 20)
#define SMALL 1000
#define COUNT 40000

TAKES(kept, "malloc", malloc(n))
GIVES(kept)
TAKES(untouched, "calloc", calloc(1, n))
TAKES(touched, "malloc", malloc(n))

static void *blocks[COUNT];

ALONE static void fill(void) {
    for (int i = 0; i < COUNT; i++) memset(blocks[i] = kept(SMALL), 1, SMALL);
}

/* Every second one: no page of the heap can be given back. */
ALONE static void free_half(void) {
    for (int i = 0; i < COUNT; i += 2) kept_free(blocks[i], SMALL);
}

ALONE static char *reserve(size_t n) {
    char *memory = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) truth_fail("mmap");
    return memory;
}

/* Four of the sixteen are given back from the middle: neighbours of one origin. */
ALONE static void map_and_cut(void) {
    char *memory = reserve(16 * MIB);
    memset(memory, 1, 16 * MIB);
    if (munmap(memory + 4 * MIB, 4 * MIB) != 0) truth_fail("munmap");
}

/* What it grows by is of who has mapped it. */
ALONE static void map_and_grow(void) {
    char *memory = reserve(8 * MIB);
    memory = mremap(memory, 8 * MIB, 24 * MIB, MREMAP_MAYMOVE);
    if (memory == MAP_FAILED) truth_fail("mremap");
    memset(memory, 1, 24 * MIB);
}

/* By no function of any library. */
ALONE static void map_directly(void) {
    char *memory = (char *)syscall(SYS_mmap, NULL, 6 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) truth_fail("mmap");
    memset(memory, 1, 6 * MIB);
    if (syscall(SYS_munmap, memory, MIB) != 0) truth_fail("munmap");
}

static pthread_barrier_t used;

static void *use_stack(void *argument) {
    volatile char bytes[MIB];
    for (size_t i = 0; i < MIB; i += 512) bytes[i] = 1;
    if (bytes[MIB / 2] == 0) truth_fail("the stack");
    pthread_barrier_wait(&used);
    for (;;) pause();
    return argument;
}

ALONE static void start_threads(int count) {
    pthread_t thread;
    pthread_barrier_init(&used, NULL, count + 1);
    for (int i = 0; i < count; i++)
        if (pthread_create(&thread, NULL, use_stack, NULL) != 0) truth_fail("pthread_create");
    pthread_barrier_wait(&used);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    char *early = reserve(16 * MIB);
    memset(early, 1, 16 * MIB);
    static void *before[COUNT];
    if (strcmp(what, "reused") == 0) {
        for (int i = 0; i < COUNT; i++) memset(before[i] = malloc(SMALL), 1, SMALL);
        for (int i = 0; i < COUNT; i += 2) free(before[i]);
    }
    step("ready");
    if (strcmp(what, "half") == 0) {
        fill();
        free_half();
    } else if (strcmp(what, "reserved") == 0) {
        memset(reserve(1024 * MIB), 1, 3 * MIB);
        untouched(200 * MIB);
        memset(touched(40 * MIB), 1, 40 * MIB);
    } else if (strcmp(what, "parts") == 0) {
        map_and_cut();
        map_and_grow();
    } else if (strcmp(what, "direct") == 0) {
        map_directly();
    } else if (strcmp(what, "stacks") == 0) {
        start_threads(8);
    } else if (strcmp(what, "reused") == 0) {
        for (int i = 0; i < COUNT; i += 2) memset(kept(SMALL), 1, SMALL);
    } else if (strcmp(what, "given_back") == 0) {
        madvise(early, 12 * MIB, MADV_DONTNEED);
    } else if (strcmp(what, "shared") == 0) {
        void *memory = mmap(NULL, 32 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        memset(memory, 1, 32 * MIB);
    } else {
        truth_fail("usage: resident half|reserved|parts|direct|stacks|reused|given_back|shared");
    }
    tell_truth();
    return 0;
}
