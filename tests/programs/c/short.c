/* short TOKEN BLOCKS SIZE: leaks BLOCKS blocks of SIZE bytes, prints what TOKEN makes of them, and exits
 * with 0: a few milliseconds in all, most of them the dynamic linker's. */
#include "short.h"

int main(int argc, char **argv) {
    if (argc != 4) truth_fail("short TOKEN BLOCKS SIZE");
    short_life(strtoull(argv[1], NULL, 10), strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
    return 0;
}
