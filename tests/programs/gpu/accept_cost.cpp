/* Pairs of cudaMalloc and cudaFree of 4 KiB, as many as the argument says: after "ready" and a byte of stdin it prints how
 * long a pair took, and waits for another byte. */
#include "runtime.h"

#include <chrono>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *take() {
    void *p = NULL;
    if (cudaMalloc(&p, 4096) != 0) exit(3);
    return p;
}

int main(int count, char **words) {
    const long pairs = count > 1 ? atol(words[1]) : 100000;
    char byte;
    /* So that the memory of the small blocks stays the process's throughout. */
    void *kept = take();
    printf("ready\n");
    fflush(stdout);
    if (read(0, &byte, 1) != 1) return 0;
    const auto begin = std::chrono::steady_clock::now();
    for (long i = 0; i < pairs; i++)
        if (cudaFree(take()) != 0) return 3;
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    printf("{\"ns\":%.0f}\n", took.count() / (double)pairs);
    fflush(stdout);
    if (read(0, &byte, 1) != 1) return 0;
    return cudaFree(kept) == 0 ? 0 : 3;
}
