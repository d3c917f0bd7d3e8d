/* Eight threads, each with a cache of 64 buffers of its own that it takes from before it takes from malloc. usage: thread_caches */
#include "corpus.h"
#include <pthread.h>
enum { THREADS = 8, CACHED = 64, SIZE = 16000 };
static int over, full;
MALLOC_SITE(site_buffer)
/* A request needs up to 64 buffers for a while; beyond the cache they go back. */
static void *work(void *number) {
    uint64_t seed = 77 + (uint64_t)(uintptr_t)number * 7919;
    void *cache[CACHED], *used[CACHED * 2];
    long cached = 0;
    double most = 0;
    for (long round = 0; !__atomic_load_n(&over, __ATOMIC_RELAXED); round++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        long needed = (long)((seed >> 33) % (CACHED + 16));
        for (long i = 0; i < needed; i++) used[i] = cached > 0 ? cache[--cached] : site_buffer(SIZE);
        struct timespec pause = {0, (long)(5e7 / corpus_speed)};
        nanosleep(&pause, NULL);
        for (long i = 0; i < needed; i++) {
            if (cached < CACHED) cache[cached++] = used[i];
            else drop_site_buffer(used[i], SIZE);
        }
        if (cached == CACHED && most == 0) most = 1, __atomic_fetch_add(&full, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}
int main(int argc, char **argv) {
    pthread_t threads[THREADS];
    corpus_begin(argc, argv);
    for (uintptr_t i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, (void *)i);
    while (corpus_tick())
        if (__atomic_load_n(&full, __ATOMIC_RELAXED) == THREADS) corpus_once("full");
    __atomic_store_n(&over, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    corpus_end();
}
