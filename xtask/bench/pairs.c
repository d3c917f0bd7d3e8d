/* Pairs of malloc and free, 64 to 575 bytes, at a depth of eight frames, by so many threads.
 *
 * usage: pairs THREADS
 * Says "ready". For each line "MS" on stdin all threads allocate for MS milliseconds at once; then one line
 * "PAIRS CPU_NS WALL_NS" is written: pairs of all threads, the processor time that the threads took for
 * them, and the time they were at it, both summed over the threads. Ends when stdin does. */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { DEPTH = 6, CHUNK = 512, SMALLEST = 64, SIZES = 512, MOST_THREADS = 256 };

struct worker {
    pthread_t thread;
    uint64_t pairs, cpu_ns, wall_ns;
} __attribute__((aligned(128)));

static struct worker workers[MOST_THREADS];
static pthread_barrier_t begin, end;
static uint64_t budget_ns; /* 0: the threads end */

static uint64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void fail(const char *what, int error) {
    errno = error;
    perror(what);
    exit(2);
}

/* The clock is read once a chunk: it costs as much as a pair does. */
__attribute__((noinline)) static void pairs(struct worker *self) {
    uint64_t cpu = now_ns(CLOCK_THREAD_CPUTIME_ID), wall = now_ns(CLOCK_MONOTONIC), done = 0, now;
    do {
        for (int pair = 0; pair < CHUNK; pair++) {
            void *block = malloc(SMALLEST + done++ * 37 % SIZES);
            /* Keeps the pair from being optimised away. */
            __asm__ volatile("" : "+r"(block) : : "memory");
            free(block);
        }
        now = now_ns(CLOCK_MONOTONIC);
    } while (now - wall < budget_ns);
    self->pairs = done;
    self->wall_ns = now - wall;
    self->cpu_ns = now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
}

__attribute__((noinline)) static void descend(struct worker *self, int depth) {
    if (depth == 0) pairs(self);
    else descend(self, depth - 1);
    /* Keeps the calls from being jumps. */
    __asm__ volatile("");
}

static void *work(void *argument) {
    for (;;) {
        pthread_barrier_wait(&begin);
        if (budget_ns == 0) return NULL;
        descend(argument, DEPTH);
        pthread_barrier_wait(&end);
    }
}

int main(int argc, char **argv) {
    int threads = argc == 2 ? atoi(argv[1]) : 0;
    if (threads < 1 || threads > MOST_THREADS) {
        fprintf(stderr, "usage: pairs THREADS\n");
        return 2;
    }
    pthread_barrier_init(&begin, NULL, (unsigned)threads + 1);
    pthread_barrier_init(&end, NULL, (unsigned)threads + 1);
    for (int i = 0; i < threads; i++) {
        int error = pthread_create(&workers[i].thread, NULL, work, &workers[i]);
        if (error) fail("pthread_create", error);
    }
    puts("ready");
    fflush(stdout);
    unsigned long milliseconds;
    while (scanf("%lu", &milliseconds) == 1) {
        budget_ns = milliseconds ? milliseconds * 1000000 : 1;
        pthread_barrier_wait(&begin);
        pthread_barrier_wait(&end);
        uint64_t pairs = 0, cpu_ns = 0, wall_ns = 0;
        for (int i = 0; i < threads; i++) {
            pairs += workers[i].pairs;
            cpu_ns += workers[i].cpu_ns;
            wall_ns += workers[i].wall_ns;
        }
        printf("%lu %lu %lu\n", pairs, cpu_ns, wall_ns);
        fflush(stdout);
    }
    budget_ns = 0;
    pthread_barrier_wait(&begin);
    for (int i = 0; i < threads; i++) pthread_join(workers[i].thread, NULL);
    return 0;
}
