/* A library that allocates: opened, called and closed in a loop by dlopen_loop. */
#include <stdlib.h>

__attribute__((noipa)) void *plugin_allocate(size_t size) {
    void *block = malloc(size);
    __asm__ volatile("" : "+r"(block));
    return block;
}
__attribute__((noipa)) void plugin_free(void *block) { free(block); __asm__ volatile(""); }
