/* What every fixture shares: the handshake with the harness and the exact ground truth.
 *
 * A fixture prints a step's name ("ready" first), waits for one byte on stdin (end of file counts as
 * one), does what it is there for, and prints its truth as one line of JSON. Between "ready" and the
 * truth it makes no allocation that it does not count: nothing here uses stdio, all buffers are
 * static. Every counted call stands in a function of its own that is named like its site, and its
 * line is the one that `took` stands on.
 */
#ifndef TRUTH_H
#define TRUTH_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* No inlining, no clones, no tail merging across calls: the function is a frame with its own name. */
#define ALONE __attribute__((noipa, noinline))

struct truth_site {
    const char *name;
    /* What the report may call it; alternatives are separated by '|', "*" is anything. */
    const char *call;
    uint64_t allocs, alloc_bytes, frees, freed_bytes, line;
};

/* Declares the site of the function of the same name. */
#define SITE(function, call)                                                                       \
    static struct truth_site function##_site = {#function, call, 0, 0, 0, 0, 0};                   \
    static struct truth_site *function##_entry __attribute__((section("truth_sites"), used)) = &function##_site

extern struct truth_site *__start_truth_sites[] __attribute__((weak));
extern struct truth_site *__stop_truth_sites[] __attribute__((weak));

static inline uint64_t truth_get(const uint64_t *value) { return __atomic_load_n(value, __ATOMIC_SEQ_CST); }
static inline void truth_add(uint64_t *value, uint64_t by) { __atomic_fetch_add(value, by, __ATOMIC_SEQ_CST); }

static inline void truth_write(int fd, const char *text, size_t length) {
    while (length > 0) {
        ssize_t written = write(fd, text, length);
        if (written <= 0) _exit(98);
        text += written;
        length -= (size_t)written;
    }
}

__attribute__((noreturn)) static inline void truth_fail(const char *why) {
    truth_write(2, "fixture: ", 9);
    truth_write(2, why, strlen(why));
    truth_write(2, "\n", 1);
    _exit(97);
}

/* A block of `size` bytes was handed out here. Use it on the line of the allocator call. */
#define took(site, block, size) truth_took(site, block, size, __LINE__)
static inline void truth_took(struct truth_site *site, void *block, size_t size, uint64_t line) {
    if (block == NULL) truth_fail("an allocation failed that must not");
    truth_add(&site->allocs, 1);
    truth_add(&site->alloc_bytes, size);
    site->line = line;
}

/* A block of `size` bytes that came from `site` was taken back. */
static inline void gave(struct truth_site *site, size_t size) {
    truth_add(&site->frees, 1);
    truth_add(&site->freed_bytes, size);
}

/* What the ledger must say, name by name. */
struct truth_counter { const char *name; uint64_t value; };
static struct truth_counter truth_ledger[16];
static inline void expect_ledger(const char *name, uint64_t by) {
    for (struct truth_counter *counter = truth_ledger; counter < truth_ledger + 16; counter++) {
        if (counter->name == NULL) counter->name = name;
        if (strcmp(counter->name, name) == 0) {
            truth_add(&counter->value, by);
            return;
        }
    }
    truth_fail("too many ledger names");
}

/* Further facts for the test, as "facts": {name: number}. */
static struct truth_counter truth_facts[64];
static inline void fact(const char *name, uint64_t value) {
    for (struct truth_counter *counter = truth_facts; counter < truth_facts + 64; counter++) {
        if (counter->name == NULL) counter->name = name;
        if (strcmp(counter->name, name) == 0) {
            counter->value = value;
            return;
        }
    }
    truth_fail("too many facts");
}

/* Waits for one byte on stdin and returns it, or -1 at its end. */
static inline int await_byte(void) {
    unsigned char byte;
    for (;;) {
        ssize_t got = read(0, &byte, 1);
        if (got == 1) return byte;
        if (got == 0) return -1;
    }
}

/* Prints the step's name on a line and waits for the harness. */
static inline int step(const char *name) {
    char line[64];
    size_t length = strlen(name);
    if (length > sizeof line - 1) truth_fail("a step's name is too long");
    memcpy(line, name, length);
    line[length] = '\n';
    truth_write(1, line, length + 1);
    return await_byte();
}

static char truth_text[1 << 18];
static size_t truth_length;
static inline void truth_put(const char *text) {
    size_t length = strlen(text);
    if (truth_length + length >= sizeof truth_text) truth_fail("the truth does not fit");
    memcpy(truth_text + truth_length, text, length);
    truth_length += length;
}
static inline void truth_put_number(uint64_t value) {
    char digits[24];
    size_t at = sizeof digits;
    digits[--at] = 0;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    truth_put(digits + at);
}
static inline void truth_put_field(const char *name, uint64_t value) {
    truth_put(",\"");
    truth_put(name);
    truth_put("\":");
    truth_put_number(value);
}
static inline void truth_put_counters(const char *title, const struct truth_counter *counters, size_t count) {
    truth_put(",\"");
    truth_put(title);
    truth_put("\":{\"_\":0");
    for (size_t index = 0; index < count && counters[index].name != NULL; index++)
        truth_put_field(counters[index].name, counters[index].value);
    truth_put("}");
}

/* Set by a header that has more to say: puts fields of its own, each with a comma before it. */
static void (*truth_more)(void);

/* Prints the truth as one line of JSON. */
static inline void print_truth(void) {
    uint64_t allocs = 0, frees = 0, alloc_bytes = 0, freed_bytes = 0;
    truth_length = 0;
    truth_put("{\"pid\":");
    truth_put_number((uint64_t)getpid());
    truth_put(",\"sites\":{");
    for (struct truth_site **entry = __start_truth_sites; entry < __stop_truth_sites; entry++) {
        const struct truth_site *site = *entry;
        uint64_t site_allocs = truth_get(&site->allocs), site_frees = truth_get(&site->frees);
        if (entry != __start_truth_sites) truth_put(",");
        truth_put("\"");
        truth_put(site->name);
        truth_put("\":{\"call\":\"");
        truth_put(site->call);
        truth_put("\"");
        truth_put_field("blocks", site_allocs - site_frees);
        truth_put_field("bytes", truth_get(&site->alloc_bytes) - truth_get(&site->freed_bytes));
        truth_put_field("allocs", site_allocs);
        truth_put_field("frees", site_frees);
        truth_put_field("line", site->line);
        truth_put("}");
        allocs += site_allocs;
        frees += site_frees;
        alloc_bytes += truth_get(&site->alloc_bytes);
        freed_bytes += truth_get(&site->freed_bytes);
    }
    truth_put("}");
    truth_put_field("allocs", allocs);
    truth_put_field("frees", frees);
    truth_put_field("alloc_bytes", alloc_bytes);
    truth_put_field("freed_bytes", freed_bytes);
    truth_put_counters("ledger", truth_ledger, 16);
    truth_put_counters("facts", truth_facts, 64);
    if (truth_more) truth_more();
    truth_put("}\n");
    truth_write(1, truth_text, truth_length);
}

/* Prints the truth and stays until the harness lets go. */
static inline void tell_truth(void) {
    print_truth();
    (void)await_byte();
}

/* A function `name(size)` that calls the allocator once and counts it. */
#define TAKES(name, call, expression)                                                              \
    SITE(name, call);                                                                              \
    ALONE void *name(size_t n) { void *block = (expression); took(&name##_site, block, n); return block; }

/* Frees a block that came from `site`. */
#define GIVES(name)                                                                                \
    ALONE void name##_free(void *block, size_t n) { free(block); gave(&name##_site, n); }

#ifdef __cplusplus
}
#endif
#endif
