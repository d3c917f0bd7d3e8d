/* What python_depth.py calls: allocations that are a C extension's own. */
#include <stdint.h>
#include <stdlib.h>

void pairs(uint64_t count)
{
    for (uint64_t done = 0; done < count; done++)
        free(malloc(64 + done % 512));
}

/* One block that stays, of a size that nothing else has. */
void keep(void)
{
    volatile char *block = malloc(7777);
    if (block)
        *block = 1;
}
