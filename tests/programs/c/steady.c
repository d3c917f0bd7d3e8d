/* Loops over malloc and free in THREADS threads until it is told to stop, and shows in the file PROGRESS
 * (mapped) how often it has been round. usage: steady PROGRESS THREADS [LEAK_EVERY] */
#include "truth.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

TAKES(steady_churn, "malloc", malloc(n))
GIVES(steady_churn)
TAKES(steady_leak, "malloc", malloc(n))

static uint64_t *progress;
static uint64_t leak_every;
static volatile int stop;

static void *run(void *argument) {
    (void)argument;
    for (uint64_t round = 1; !stop; round++) {
        steady_churn_free(steady_churn(64), 64);
        if (leak_every != 0 && round % leak_every == 0) steady_leak(100);
        truth_add(progress, 1);
        if (round % 64 == 0) sched_yield();
    }
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t threads[8];
    if (argc < 3) truth_fail("usage: steady PROGRESS THREADS [LEAK_EVERY]");
    int file = open(argv[1], O_RDWR | O_CREAT, 0644);
    if (file < 0 || ftruncate(file, 4096) != 0) truth_fail("the progress file");
    progress = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (progress == MAP_FAILED) truth_fail("mmap");
    int count = atoi(argv[2]);
    if (count > 8) truth_fail("at most 8 threads");
    leak_every = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
    step("ready");
    for (int i = 0; i < count; i++) pthread_create(&threads[i], NULL, run, NULL);
    step("running");
    stop = 1;
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
    tell_truth();
    return 9;
}
