/* posix_spawn and a vfork child that allocates in its parent's memory, among the parent's own blocks. */
#define _GNU_SOURCE
#include "truth.h"
#include <spawn.h>
#include <sys/wait.h>

TAKES(in_parent, "malloc", malloc(n))
GIVES(in_parent)
ALONE void in_vfork_child(void) { free(malloc(4321)); }

int main(void) {
    char path[] = "/bin/true";
    char *arguments[] = {path, NULL}, *environment[] = {NULL};
    step("ready");
    for (int i = 0; i < 10; i++) {
        in_parent(60);
        pid_t child;
        if (posix_spawn(&child, path, NULL, NULL, arguments, environment) != 0) truth_fail("posix_spawn");
        waitpid(child, NULL, 0);
        void *block = in_parent(60);
        child = vfork();
        if (child == 0) {
            in_vfork_child();
            _exit(0);
        }
        waitpid(child, NULL, 0);
        in_parent_free(block, 60);
    }
    tell_truth();
    return 0;
}
