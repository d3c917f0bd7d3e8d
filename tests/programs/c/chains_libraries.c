/* Call chains through libraries that come and go. LIBRARY is a build of bounce.c.
 * usage: chains_libraries storm ROUNDS LIBRARY...     opens each, calls it, closes it, ROUNDS times over
 *        chains_libraries many COPIES LIBRARY...      opens so many copies of them, from memory, and calls through all
 *        chains_libraries deleted LIBRARY             opens it, deletes the file, calls it */
#define _GNU_SOURCE
#include "chain.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#define AFTER __asm__ volatile("" : : : "memory")
typedef void bounce_fn(void (*)(void *), void *);

enum { COPIES = 400 };
static bounce_fn *through[COPIES];
static const char *shape;

ALONE static void here(void *depth) {
    take_here(shape, (uint64_t)depth);
    AFTER;
}

static void *opened(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) truth_fail(dlerror());
    return library;
}
static bounce_fn *bounce_of(void *library) {
    void *symbol = dlsym(library, "bounce");
    if (symbol == NULL) truth_fail(dlerror());
    bounce_fn *function;
    memcpy(&function, &symbol, sizeof function);
    return function;
}

ALONE static void storm(uint64_t rounds, char **paths, int count) {
    for (uint64_t round = 0; round < rounds; round++)
        for (int at = 0; at < count; at++) {
            void *library = opened(paths[at]);
            bounce_of(library)(here, (void *)(round * 1000 + (uint64_t)at));
            dlclose(library);
        }
}

/* A file in memory with the content of another. */
static void *opened_from_memory(const char *path) {
    static char content[1 << 20];
    int file = open(path, O_RDONLY), copy = memfd_create("bounce", MFD_CLOEXEC);
    ssize_t size = read(file, content, sizeof content);
    if (file < 0 || copy < 0 || size <= 0) truth_fail("a library cannot be copied");
    if (write(copy, content, (size_t)size) != size) truth_fail("a library cannot be written");
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", copy);
    close(file);
    /* Stays open: the next copy must have another name. */
    return opened(name);
}

/* Calls through sixteen of them, one inside another. */
static void inner(void *at) {
    size_t index = (size_t)at;
    if (index % 16 == 15 || through[index + 1] == NULL) take_here(shape, index);
    else through[index + 1](inner, (void *)(index + 1));
    AFTER;
}
ALONE static void many(uint64_t copies, char **paths, int count) {
    if (copies > COPIES - 1) truth_fail("too many copies");
    for (uint64_t at = 0; at < copies; at++)
        through[at] = bounce_of(opened_from_memory(paths[at % (uint64_t)count]));
    step("opened");
    for (uint64_t at = 0; at < copies; at += 16) through[at](inner, (void *)at);
}

int main(int argc, char **argv) {
    if (argc < 3) truth_fail("usage: see the source");
    shape = argv[1];
    chain_prepare();
    step("ready");
    if (strcmp(shape, "storm") == 0) {
        storm(strtoull(argv[2], NULL, 10), argv + 3, argc - 3);
    } else if (strcmp(shape, "many") == 0) {
        many(strtoull(argv[2], NULL, 10), argv + 3, argc - 3);
    } else {
        bounce_fn *bounce = bounce_of(opened(argv[2]));
        if (unlink(argv[2]) != 0) truth_fail("unlink");
        step("deleted");
        bounce(here, NULL);
    }
    tell_truth();
    return 0;
}
