/* Executes the file SCRIPT, one allocator call a line: THREAD OP SLOT A B. Each is made by its thread, in
 * the order of the script, so that a model knows the exact outcome. usage: random_ops SCRIPT */
#define _GNU_SOURCE
#include "truth.h"
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { SLOTS = 256, THREADS = 8 };
static void *slots[SLOTS];
static const char *script, *script_end;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static uint64_t done;
static int threads_finished;

ALONE void do_malloc(size_t slot, size_t n) { void *p = malloc(n); slots[slot] = p; }
ALONE void do_calloc(size_t slot, size_t count, size_t n) { void *p = calloc(count, n); slots[slot] = p; }
ALONE void do_realloc(size_t slot, size_t n) { void *p = realloc(slots[slot], n); slots[slot] = p; }
ALONE void do_realloc_failing(size_t slot) { if (realloc(slots[slot], SIZE_MAX / 4) != NULL) truth_fail("realloc"); }
ALONE void do_memalign(size_t slot, size_t alignment, size_t n) {
    void *block = NULL;
    if (posix_memalign(&block, alignment, n) != 0) truth_fail("posix_memalign");
    slots[slot] = block;
}
ALONE void do_free(size_t slot) { free(slots[slot]); slots[slot] = NULL; }
ALONE void do_malloc_failing(void) { if (malloc(SIZE_MAX / 2) != NULL) truth_fail("malloc"); }

static uint64_t number(const char **at) {
    uint64_t value = 0;
    while (**at == ' ') ++*at;
    while (**at >= '0' && **at <= '9') value = value * 10 + (uint64_t)(*(*at)++ - '0');
    return value;
}

static void execute(char operation, size_t slot, uint64_t a, uint64_t b) {
    if (slot >= SLOTS) truth_fail("no such slot");
    switch (operation) {
    case 'm': do_malloc(slot, a); break;
    case 'c': do_calloc(slot, a, b); break;
    case 'r': do_realloc(slot, a); break;
    case 'R': do_realloc_failing(slot); break;
    case 'a': do_memalign(slot, a, b); break;
    case 'f': do_free(slot); break;
    case 'M': do_malloc_failing(); break;
    default: truth_fail("no such operation");
    }
}

static void *run(void *argument) {
    uint64_t self = (uintptr_t)argument, line = 0;
    for (const char *at = script; at < script_end; line++) {
        uint64_t thread = number(&at);
        while (*at == ' ') at++;
        char operation = *at++;
        size_t slot = number(&at);
        uint64_t a = number(&at), b = number(&at);
        while (at < script_end && *at != '\n') at++;
        at++;
        if (thread != self) continue;
        pthread_mutex_lock(&lock);
        while (done != line) pthread_cond_wait(&turn, &lock);
        pthread_mutex_unlock(&lock);
        execute(operation, slot, a, b);
        pthread_mutex_lock(&lock);
        done = line + 1;
        pthread_cond_broadcast(&turn);
        pthread_mutex_unlock(&lock);
    }
    pthread_mutex_lock(&lock);
    threads_finished++;
    pthread_cond_broadcast(&turn);
    pthread_mutex_unlock(&lock);
    /* Lives as long as the process: glibc frees a thread's cache once more at its end. */
    for (;;) pause();
    return NULL;
}

int main(int argc, char **argv) {
    struct stat info;
    pthread_t threads[THREADS];
    if (argc != 2) truth_fail("usage: random_ops SCRIPT");
    int file = open(argv[1], O_RDONLY);
    if (file < 0 || fstat(file, &info) != 0) truth_fail("the script");
    /* One more byte than the file has: its end reads as 0. */
    script = mmap(NULL, (size_t)info.st_size + 1, PROT_READ, MAP_PRIVATE, file, 0);
    if (script == MAP_FAILED) truth_fail("mmap");
    script_end = script + info.st_size;
    /* Their own blocks are made before the tracer looks; they wait for the first line. */
    pthread_mutex_lock(&lock);
    done = UINT64_MAX;
    pthread_mutex_unlock(&lock);
    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, run, (void *)i) != 0) truth_fail("pthread_create");
    step("ready");
    pthread_mutex_lock(&lock);
    done = 0;
    pthread_cond_broadcast(&turn);
    while (threads_finished < THREADS) pthread_cond_wait(&turn, &lock);
    pthread_mutex_unlock(&lock);
    tell_truth();
    return 0;
}
