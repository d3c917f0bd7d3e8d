/* A custom allocator over a static arena, for --alloc and --free: no allocator of the system is involved. */
#ifndef POOL_H
#define POOL_H
#include "truth.h"

struct pool { size_t used; };
static struct pool the_pool;
static _Alignas(16) unsigned char pool_arena[8 << 20];

static inline void *pool_take(struct pool *pool, size_t size) {
    size_t rounded = (size + 15) / 16 * 16;
    size_t at = __atomic_fetch_add(&pool->used, rounded, __ATOMIC_SEQ_CST);
    return at + rounded > sizeof pool_arena ? NULL : pool_arena + at;
}
#endif
