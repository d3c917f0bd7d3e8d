/* Call chains in processes that begin: each prints its own truth.
 * usage: chains_processes fork | vfork | exec */
#define _GNU_SOURCE
#include "chain.h"
#include <sys/wait.h>

#define AFTER __asm__ volatile("" : : : "memory")

static const char *shape;
ALONE static void down(int levels) {
    if (levels == 0) take_here(shape, 0);
    else down(levels - 1);
    AFTER;
}

/* The child's first allocations are those of its chains. It waits at "child" before. */
ALONE static void in_fork(void) {
    shape = "parent_before";
    down(6);
    int to_child[2], from_child[2];
    char byte = 0;
    if (pipe(to_child) != 0 || pipe(from_child) != 0) truth_fail("pipe");
    pid_t child = fork();
    if (child < 0) truth_fail("fork");
    if (child == 0) {
        close(to_child[1]);
        chain_count = 0;
        step("child");
        shape = "child";
        down(9);
        print_truth();
        truth_write(from_child[1], &byte, 1);
        /* Ends with the parent, however that ends. */
        if (read(to_child[0], &byte, 1) < 0) _exit(1);
        _exit(0);
    }
    if (read(from_child[0], &byte, 1) != 1) truth_fail("the child died");
    shape = "parent_after";
    down(8);
    tell_truth();
    close(to_child[1]);
    waitpid(child, NULL, 0);
}

/* The child borrows its parent's memory, and with it the list of chains. */
ALONE static void in_vfork(void) {
    shape = "parent_before";
    down(6);
    pid_t child = vfork();
    if (child == 0) {
        free(malloc(4321));
        _exit(0);
    }
    waitpid(child, NULL, 0);
    shape = "parent_after";
    down(7);
    tell_truth();
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "fork";
    chain_prepare();
    if (strcmp(mode, "second") == 0) {
        step("second");
        shape = "after_exec";
        down(11);
        tell_truth();
        return 0;
    }
    step("ready");
    if (strcmp(mode, "fork") == 0) {
        in_fork();
    } else if (strcmp(mode, "vfork") == 0) {
        in_vfork();
    } else {
        shape = "before_exec";
        down(5);
        print_truth();
        char second[] = "second";
        char *arguments[] = {argv[0], second, NULL};
        execv("/proc/self/exe", arguments);
        truth_fail("execv");
    }
    return 0;
}
