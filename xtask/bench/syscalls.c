/* What a system call costs: getpid, or mmap and munmap of one page, called from a few frames deep. Prints the median of 15
 * rounds in nanoseconds. Usage: syscalls getpid|mmap [SECONDS TO WAIT BEFORE] */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 15, GETPID_CALLS = 300000, MMAP_CALLS = 30000, DEPTH = 6, PAGE = 4096 };

static double now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static int compare(const void *a, const void *b) {
    double difference = *(const double *)a - *(const double *)b;
    return difference < 0 ? -1 : difference > 0;
}

__attribute__((noinline)) static void run(int depth, int maps) {
    if (depth > 0) {
        run(depth - 1, maps);
        __asm__ volatile("");
        return;
    }
    if (!maps) {
        for (int call = 0; call < GETPID_CALLS; call++) {
            syscall(SYS_getpid);
        }
        return;
    }
    for (int call = 0; call < MMAP_CALLS; call++) {
        void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        munmap(page, PAGE);
    }
}

int main(int argc, char **argv) {
    int maps = argc > 1 && strcmp(argv[1], "mmap") == 0;
    if (argc > 2) {
        usleep((useconds_t)(atof(argv[2]) * 1e6));
    }
    double rounds_ns[ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        double begin_ns = now_ns();
        run(DEPTH, maps);
        rounds_ns[round] = (now_ns() - begin_ns) / (maps ? MMAP_CALLS : GETPID_CALLS);
    }
    qsort(rounds_ns, ROUNDS, sizeof *rounds_ns, compare);
    printf("%.1f\n", rounds_ns[ROUNDS / 2]);
    return 0;
}
