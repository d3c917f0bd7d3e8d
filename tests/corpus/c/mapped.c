/* Memory that is mapped. usage: mapped leak|huge|stacks|parked|ring|partial
 * leak: 64 KiB at a time, never unmapped. huge: 1 GiB at the start and hardly touched, beside a small leak. stacks: threads that
 * end and are never joined; libc gives back all but a page or two of each. parked: threads that wait for ever. ring: sixteen files of 256 KiB, the oldest unmapped for a new one. partial: 128 KiB at a time, of
 * which three quarters are unmapped soon after. */
#define _GNU_SOURCE
#include "corpus.h"
#include <pthread.h>
#include <sys/mman.h>
SITE(site_map);
ALONE char *site_map(size_t size, size_t touched) {
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) _exit(97);
    corpus_took(&site_map_site, memory, touched);
    return memory;
}
SITE(site_spawn);
static void *live(void *is_parked) {
    char used[96 << 10];
    memset(used, 1, sizeof used);
    __asm__ volatile("" ::"r"(used) : "memory");
    while (is_parked != NULL) pause();
    return NULL;
}
ALONE void site_spawn(int is_parked) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 256 << 10);
    if (pthread_create(&thread, &attributes, live, is_parked ? &site_spawn_site : NULL) != 0) _exit(97);
    site_spawn_site.bytes += is_parked ? 96 << 10 : 4096, site_spawn_site.blocks++;
}
MALLOC_SITE(site_leak)
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    enum { RING = 16, FILE_SIZE = 256 << 10 };
    char *ring[RING] = {NULL};
    long next = 0;
    int spawns = corpus_is("stacks") || corpus_is("parked");
    struct corpus_rate maps = {10, 0}, threads = {4, 0}, leaks = {50, 0};
    if (corpus_is("leak")) site_map_site.rate = 10 * 65536 * corpus_speed;
    if (corpus_is("partial")) site_map_site.rate = 10 * 32768 * corpus_speed;
    if (corpus_is("huge")) site_leak_site.rate = 50 * 1000 * corpus_speed, site_map(1 << 30, 1 << 20), corpus_event("full");
    while (corpus_tick()) {
        for (long n = corpus_is("huge") || spawns ? 0 : corpus_due(&maps); n > 0; n--) {
            if (corpus_is("leak")) {
                site_map(65536, 65536);
            } else if (corpus_is("partial")) {
                char *memory = site_map(131072, 131072);
                munmap(memory + 16384, 98304);
                site_map_site.bytes -= 98304;
            } else {
                char **place = &ring[next++ % RING];
                if (*place != NULL) munmap(*place, FILE_SIZE), corpus_gave(&site_map_site, FILE_SIZE), corpus_once("full");
                *place = site_map(FILE_SIZE, FILE_SIZE);
            }
        }
        for (long n = spawns ? corpus_due(&threads) : 0; n > 0; n--) site_spawn(corpus_is("parked"));
        for (long n = corpus_is("huge") ? corpus_due(&leaks) : 0; n > 0; n--) site_leak(1000);
    }
    corpus_end();
}
