/* The leak that the virtual machine's check looks for: n malloc/free pairs of 100 bytes, of which every
 * 1000th keeps its block. Usage: leak N */
#include <stdlib.h>

__attribute__((noinline)) static void *take(void) { return malloc(100); }

int main(int argc, char **argv) {
    long pairs = argc > 1 ? atol(argv[1]) : 0;
    static void *volatile kept;
    for (long pair = 1; pair <= pairs; pair++) {
        void *block = take();
        if (pair % 1000 == 0) {
            kept = block;
        } else {
            free(block);
        }
    }
    return 0;
}
