/* What the corpus's programs in C and C++ share: how they begin and end, pacing, and the truth about their sites.
 *
 * A program prints {"ready":true} and waits for a line on stdin; it then does what it does for --seconds, prints each event
 * as it comes to it, prints its truth, and waits for a second line (or the end of its input), after which it exits.
 * Times are CLOCK_BOOTTIME in seconds. Rates are multiplied by --speed, time constants are not, but are parts of --seconds.
 * Each site that is labelled is a function of its own, named `site_...`. Nothing here allocates.
 */
#ifndef CORPUS_H
#define CORPUS_H

#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A frame of its own: not inlined, not cloned, not merged. */
#define ALONE __attribute__((noipa, noinline))

#define TICK_S 0.01

/* What a site holds, and of the second half: how that grew, and the most it was. */
struct corpus_site {
    const char *name;
    int64_t bytes, blocks;
    double rate; /* bytes a second by design; NAN where only what has happened is known */
    double n, t, b, tt, tb, most;
};

#define SITE(function)                                                                             \
    static struct corpus_site function##_site = {#function, 0, 0, NAN, 0, 0, 0, 0, 0, 0};             \
    static struct corpus_site *function##_entry __attribute__((section("corpus_sites"), used)) = &function##_site

extern struct corpus_site *__start_corpus_sites[] __attribute__((weak));
extern struct corpus_site *__stop_corpus_sites[] __attribute__((weak));

static double corpus_seconds = 30, corpus_speed = 1, corpus_start;
static const char *corpus_variant = "";
static char corpus_out[4096];

static inline double corpus_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}
/* Seconds since the first line on stdin. */
static inline double corpus_now(void) { return corpus_clock() - corpus_start; }
/* This part of the run, in seconds. */
static inline double corpus_part(double part) { return part * corpus_seconds; }

/* Resident bytes. Summed over the page tables: VmRSS is a sum of per-CPU counters since 6.2 (mm/memory.c), and inexact. */
static inline long long corpus_rss(void) {
    static char text[1024];
    int file = open("/proc/self/smaps_rollup", O_RDONLY);
    ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0) close(file);
    if (length <= 0) return -1;
    text[length] = 0;
    const char *rss = strstr(text, "\nRss:");
    return rss == NULL ? -1 : atoll(rss + 5) * 1024;
}

static inline void corpus_event(const char *name) {
    printf("{\"t\":%.6f,\"event\":\"%s\",\"rss_bytes\":%lld}\n", corpus_clock(), name, corpus_rss());
    fflush(stdout);
}
/* Says it once. */
#define corpus_once(name) ({ static int said; if (!said++) corpus_event(name); })

static inline void corpus_wait(void) {
    char byte;
    while (read(0, &byte, 1) == 1 && byte != '\n') continue;
}

static inline void corpus_begin(int argc, char **argv) {
    setvbuf(stdout, corpus_out, _IOFBF, sizeof corpus_out);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) corpus_seconds = atof(argv[++i]);
        else if (strcmp(argv[i], "--speed") == 0 && i + 1 < argc) corpus_speed = atof(argv[++i]);
        else corpus_variant = argv[i];
    }
    printf("{\"ready\":true,\"pid\":%d,\"t\":%.6f,\"rss_bytes\":%lld}\n", (int)getpid(), corpus_clock(), corpus_rss());
    fflush(stdout);
    corpus_wait();
    corpus_start = corpus_clock();
    corpus_event("begin");
}
static inline int corpus_is(const char *variant) { return strcmp(corpus_variant, variant) == 0; }

/* Waits for the next tick; 0 when the time is over. */
static inline int corpus_tick(void) {
    static double next;
    double now = corpus_now();
    if (now > corpus_part(0.5))
        for (struct corpus_site **site = __start_corpus_sites; site < __stop_corpus_sites; site++) {
            double b = (double)__atomic_load_n(&(*site)->bytes, __ATOMIC_RELAXED), t = now - corpus_part(0.75);
            (*site)->n++, (*site)->t += t, (*site)->b += b, (*site)->tt += t * t, (*site)->tb += t * b;
            (*site)->most = fmax((*site)->most, b);
        }
    next = fmax(next + TICK_S, now);
    double pause = next - now;
    struct timespec pause_for = {0, (long)(pause * 1e9)};
    nanosleep(&pause_for, NULL);
    return corpus_now() < corpus_seconds;
}

static inline void corpus_number(const char *name, double value) {
    if (isnan(value)) printf(",\"%s\":null", name);
    else printf(",\"%s\":%.1f", name, value);
}

__attribute__((noreturn)) static inline void corpus_end(void) {
    printf("{\"t\":%.6f,\"event\":\"end\",\"rss_bytes\":%lld,\"sites\":[", corpus_clock(), corpus_rss());
    for (struct corpus_site **site = __start_corpus_sites; site < __stop_corpus_sites; site++) {
        struct corpus_site *of = *site;
        double below = of->n * of->tt - of->t * of->t;
        printf("%s{\"name\":\"%s\",\"bytes\":%lld,\"blocks\":%lld", site == __start_corpus_sites ? "" : ",", of->name,
               (long long)of->bytes, (long long)of->blocks);
        corpus_number("slope_bytes_per_s", below > 0 ? (of->n * of->tb - of->t * of->b) / below : NAN);
        corpus_number("rate_bytes_per_s", of->rate);
        corpus_number("most_bytes", of->most);
        printf("}");
    }
    printf("]}\n");
    fflush(stdout);
    corpus_wait();
    _exit(0);
}

/* A block was taken at, or given back to, a site; its memory is written to. */
static inline void *corpus_took(struct corpus_site *site, void *block, size_t size) {
    if (block == NULL) _exit(97);
    memset(block, 1, size);
    __atomic_fetch_add(&site->bytes, (int64_t)size, __ATOMIC_RELAXED);
    __atomic_fetch_add(&site->blocks, 1, __ATOMIC_RELAXED);
    return block;
}
static inline void corpus_gave(struct corpus_site *site, size_t size) {
    __atomic_fetch_sub(&site->bytes, (int64_t)size, __ATOMIC_RELAXED);
    __atomic_fetch_sub(&site->blocks, 1, __ATOMIC_RELAXED);
}
/* Declares the site of a function that takes `size` bytes from malloc, and `drop_...`, which gives them back. */
#define MALLOC_SITE(function)                                                                      \
    SITE(function);                                                                                \
    ALONE void *function(size_t size) {                                                            \
        void *block = malloc(size);                                                                \
        return corpus_took(&function##_site, block, size);                                         \
    }                                                                                              \
    __attribute__((unused)) static void drop_##function(void *block, size_t size) {                \
        corpus_gave(&function##_site, size);                                                       \
        free(block);                                                                               \
    }

/* How many of what comes `per_s` times a second are due now. */
struct corpus_rate { double per_s, done; };
static inline long corpus_due(struct corpus_rate *rate) {
    double due = floor(rate->per_s * corpus_speed * corpus_now()) - rate->done;
    if (due < 1) return 0;
    rate->done += due;
    return (long)due;
}

/* xorshift64*: the same numbers in every run. */
static uint64_t corpus_seed = 0x9e3779b97f4a7c15u;
static inline double corpus_random(void) {
    corpus_seed ^= corpus_seed >> 12, corpus_seed ^= corpus_seed << 25, corpus_seed ^= corpus_seed >> 27;
    return (double)((corpus_seed * 0x2545f4914f6cdd1du) >> 11) / 9007199254740992.0;
}
static inline long corpus_below(long bound) { return (long)(corpus_random() * (double)bound); }
static inline double corpus_exponential(double mean) { return -mean * log(1 - corpus_random()); }

/* Blocks that are to be given back at a time: a wheel of ticks. The program says what giving back is. */
struct corpus_later { struct corpus_later *next; size_t size; };
enum { CORPUS_WHEEL = 16384 };
static struct corpus_later *corpus_wheel[CORPUS_WHEEL];
static long corpus_turned;
/* The block's own first bytes hold its place in the wheel. What is due after the wheel's end never is. */
static inline void corpus_later(void *block, size_t size, double in_s) {
    long tick = (long)((corpus_now() + in_s) / TICK_S) + 1;
    if (tick >= CORPUS_WHEEL) return;
    struct corpus_later *later = (struct corpus_later *)block;
    later->size = size, later->next = corpus_wheel[tick], corpus_wheel[tick] = later;
}
static inline void corpus_drop_due(void (*drop)(void *block, size_t size)) {
    for (; corpus_turned <= (long)(corpus_now() / TICK_S) && corpus_turned < CORPUS_WHEEL; corpus_turned++)
        for (struct corpus_later *later = corpus_wheel[corpus_turned], *next; later != NULL; later = next) {
            next = later->next;
            drop(later, later->size);
        }
}

#endif
