/* For LD_PRELOAD: wraps the C library's allocator as many products do, so that each call passes two
 * probed functions. Its realloc is a malloc, a copy and a free of the inner allocator. Also carries the
 * frees of C23, which pass their block on. */
#include <errno.h>
#include <stddef.h>
#include <string.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);
extern size_t malloc_usable_size(void *);

void *malloc(size_t size) {
    void *block = __libc_malloc(size);
    __asm__ volatile("" : "+r"(block));
    return block;
}
void *calloc(size_t count, size_t size) {
    void *block = __libc_calloc(count, size);
    __asm__ volatile("" : "+r"(block));
    return block;
}
void free(void *block) {
    __libc_free(block);
    __asm__ volatile("");
}
void *realloc(void *old, size_t size) {
    if (size == 0 && old != NULL) {
        __libc_free(old);
        return NULL;
    }
    void *block = __libc_malloc(size);
    if (block == NULL || old == NULL) return block;
    size_t old_size = malloc_usable_size(old);
    memcpy(block, old, old_size < size ? old_size : size);
    __libc_free(old);
    __asm__ volatile("" : "+r"(block));
    return block;
}
int posix_memalign(void **out, size_t alignment, size_t size) {
    if (alignment < sizeof(void *) || (alignment & (alignment - 1)) != 0) return EINVAL;
    void *block = __libc_memalign(alignment, size);
    if (block == NULL) return ENOMEM;
    *out = block;
    return 0;
}
void free_sized(void *block, size_t size) {
    (void)size;
    free(block);
    __asm__ volatile("");
}
void free_aligned_sized(void *block, size_t alignment, size_t size) {
    (void)alignment, (void)size;
    free(block);
    __asm__ volatile("");
}
void cfree(void *block) {
    free(block);
    __asm__ volatile("");
}
