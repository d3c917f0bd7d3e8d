/* The mappings that the virtual machine's check looks for: one of MAPPED bytes that the program makes itself and gives back
 * the middle of, and one that malloc makes for a block of BLOCK bytes. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>

enum { PAGE = 4096, MAPPED = 0x305000, MIDDLE = 0x7000, MOVED = 0x609000, BLOCK = 0x900000 };

__attribute__((noinline)) static char *take(void) {
    return mmap(NULL, MAPPED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

int main(void) {
    char *mapped = take();
    if (mapped == MAP_FAILED || munmap(mapped + 16 * PAGE, MIDDLE) != 0) {
        return 1;
    }
    if (mremap(mapped, 16 * PAGE, MOVED, MREMAP_MAYMOVE) == MAP_FAILED) {
        return 1;
    }
    static void *volatile block;
    block = malloc(BLOCK);
    free(block);
    return 0;
}
