/* A library that carries its own allocator as local symbols, as a wheel with a Rust core does: PREFIX is
 * mi_, je_ or _rjem_. It takes memory by mmap, so that nothing of it passes libc. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)
#define LOCAL(name) JOIN(PREFIX, name)
#define ALONE __attribute__((noipa, noinline, used))

static unsigned char *arena;
static size_t used;
enum { ARENA = 16 << 20 };

static void *take(size_t size, size_t alignment) {
    if (arena == NULL) {
        void *memory = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return NULL;
        arena = memory;
    }
    size_t at = (used + 16 + alignment - 1) / alignment * alignment;
    if (at + size > ARENA) return NULL;
    used = at + size;
    memcpy(arena + at - 8, &size, 8);
    return arena + at;
}

#ifdef MIMALLOC_NAMES
ALONE static void *LOCAL(malloc_aligned)(size_t size, size_t alignment) { return take(size, alignment); }
ALONE static void *LOCAL(zalloc_aligned)(size_t size, size_t alignment) { return take(size, alignment); }
ALONE static void *LOCAL(realloc_aligned)(void *old, size_t size, size_t alignment) {
    uint64_t old_size;
    void *block = take(size, alignment);
    memcpy(&old_size, (unsigned char *)old - 8, 8);
    memcpy(block, old, old_size < size ? old_size : size);
    return block;
}
ALONE static void LOCAL(free)(void *block) { __asm__ volatile("" : : "r"(block) : "memory"); }
#define TAKE(n) LOCAL(malloc_aligned)(n, 16)
#define TAKE_ZEROED(n) LOCAL(zalloc_aligned)(n, 64)
#define MOVE(old, n) LOCAL(realloc_aligned)(old, n, 16)
#else
ALONE static void *LOCAL(malloc)(size_t size) { return take(size, 16); }
ALONE static void *LOCAL(calloc)(size_t count, size_t size) { return take(count * size, 16); }
ALONE static void *LOCAL(realloc)(void *old, size_t size) {
    uint64_t old_size;
    void *block = take(size, 16);
    memcpy(&old_size, (unsigned char *)old - 8, 8);
    memcpy(block, old, old_size < size ? old_size : size);
    return block;
}
ALONE static void LOCAL(free)(void *block) { __asm__ volatile("" : : "r"(block) : "memory"); }
#define TAKE(n) LOCAL(malloc)(n)
#define TAKE_ZEROED(n) LOCAL(calloc)(2, n / 2)
#define MOVE(old, n) LOCAL(realloc)(old, n)
#endif

ALONE void *own_take(size_t n) {
    void *block = TAKE(n);
    __asm__ volatile("" : "+r"(block));
    return block;
}
ALONE void *own_take_zeroed(size_t n) {
    void *block = TAKE_ZEROED(n);
    __asm__ volatile("" : "+r"(block));
    return block;
}
ALONE void *own_move(void *old, size_t n) {
    void *block = MOVE(old, n);
    __asm__ volatile("" : "+r"(block));
    return block;
}
ALONE void own_free(void *block) { LOCAL(free)(block); __asm__ volatile(""); }
