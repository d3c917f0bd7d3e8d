/* The parent's blocks are inherited by a child, which frees some of its copies and has blocks of its
 * own. Both print their truth, the child first. The child lives until the parent ends. It waits at the
 * step "child" before it does anything, unless the first argument is "early". */
#include "truth.h"
#include <sys/wait.h>

TAKES(before_fork, "malloc", malloc(n))
TAKES(in_child, "malloc", malloc(n))
TAKES(in_parent, "malloc", malloc(n))
GIVES(before_fork)
GIVES(in_child)
GIVES(in_parent)

int main(int argc, char **argv) {
    int early = argc > 1 && strcmp(argv[1], "early") == 0;
    void *blocks[10];
    int to_child[2], from_child[2];
    char byte = 0;
    if (pipe(to_child) != 0 || pipe(from_child) != 0) truth_fail("pipe");
    step("ready");
    for (int i = 0; i < 10; i++) blocks[i] = before_fork(100);
    pid_t child = fork();
    if (child < 0) truth_fail("fork");
    if (child == 0) {
        close(to_child[1]);
        if (!early) step("child");
        /* Its truth is of what it did itself. */
        memset(&before_fork_site.allocs, 0, 4 * sizeof(uint64_t));
        for (int i = 0; i < 4; i++) free(blocks[i]);
        expect_ledger("free_unknown", 4);
        void *own[7];
        for (int i = 0; i < 7; i++) own[i] = in_child(70);
        in_child_free(own[0], 70);
        in_child_free(own[1], 70);
        print_truth();
        truth_write(from_child[1], &byte, 1);
        /* Ends with the parent, however that ends. */
        if (read(to_child[0], &byte, 1) < 0) _exit(1);
        _exit(0);
    }
    if (read(from_child[0], &byte, 1) != 1) truth_fail("the child died");
    before_fork_free(blocks[0], 100);
    before_fork_free(blocks[9], 100);
    before_fork_free(blocks[8], 100);
    for (int i = 0; i < 5; i++) in_parent(50);
    in_parent_free(in_parent(50), 50);
    fact("child", (uint64_t)child);
    tell_truth();
    close(to_child[1]);
    waitpid(child, NULL, 0);
    return 0;
}
