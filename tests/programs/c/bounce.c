/* A library of one function, which calls back. FRAME is how many bytes of stack it takes. */
#include <stddef.h>
#ifndef FRAME
#define FRAME 8
#endif
void bounce(void (*then)(void *), void *with) {
    volatile char space[FRAME];
    space[(size_t)with % FRAME] = 1;
    then(with);
    __asm__ volatile("" : : "r"(space[0]) : "memory");
}
