/* For LD_PRELOAD: counts what passes the C library's allocator and prints it at the end, so that the
 * truths that the fixtures tell are checked by something that does not share their code. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t), *__libc_valloc(size_t), *__libc_pvalloc(size_t);
extern void __libc_free(void *);

static uint64_t allocs, frees;

static void *counted(void *block) {
    if (block != NULL) __atomic_fetch_add(&allocs, 1, __ATOMIC_SEQ_CST);
    return block;
}
void *malloc(size_t size) { return counted(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return counted(__libc_calloc(count, size)); }
void *memalign(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }
void *aligned_alloc(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }
void *valloc(size_t size) { return counted(__libc_valloc(size)); }
void *pvalloc(size_t size) { return counted(__libc_pvalloc(size)); }
int posix_memalign(void **out, size_t alignment, size_t size) {
    if (alignment < sizeof(void *) || (alignment & (alignment - 1)) != 0) return EINVAL;
    void *block = counted(__libc_memalign(alignment, size));
    if (block == NULL) return ENOMEM;
    *out = block;
    return 0;
}
void free(void *block) {
    if (block != NULL) __atomic_fetch_add(&frees, 1, __ATOMIC_SEQ_CST);
    __libc_free(block);
}
void *realloc(void *old, size_t size) {
    void *block = __libc_realloc(old, size);
    if (old != NULL && (block != NULL || size == 0)) __atomic_fetch_add(&frees, 1, __ATOMIC_SEQ_CST);
    return counted(block);
}

static void put_number(uint64_t number) {
    char digits[24];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    if (write(2, digits + at, sizeof digits - at) < 0) _exit(98);
}
__attribute__((destructor)) static void tell(void) {
    if (write(2, "counted ", 8) < 0) _exit(98);
    put_number(allocs);
    if (write(2, " ", 1) < 0) _exit(98);
    put_number(frees);
    if (write(2, "\n", 1) < 0) _exit(98);
}
