/* Two children, one after the other, by the same pid (`set_tid` of clone3, Linux 5.5): the first holds 5
 * blocks of 500 bytes when it ends, the second 3 of 300 while it lives, and neither has those of the other.
 * Waits at "ready", then at "between", when the first is gone. The second lives until the end. */
#define _GNU_SOURCE
#include "truth.h"
#include <linux/sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

TAKES(first_life, "malloc", malloc(n))
TAKES(second_life, "malloc", malloc(n))

/* fork with a pid that is wanted; -1 where that is taken. */
static pid_t fork_as(pid_t pid) {
    struct clone_args arguments = {
        .exit_signal = SIGCHLD,
        .set_tid = pid == 0 ? 0 : (uint64_t)(uintptr_t)&pid,
        .set_tid_size = pid == 0 ? 0 : 1,
    };
    return (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
}

int main(void) {
    int to_child[2], from_child[2];
    char byte = 0;
    if (pipe(to_child) != 0 || pipe(from_child) != 0) truth_fail("pipe");
    step("ready");
    pid_t first = fork_as(0);
    if (first < 0) truth_fail("clone3");
    if (first == 0) {
        for (int i = 0; i < 5; i++) first_life(500);
        _exit(0);
    }
    if (waitpid(first, NULL, 0) != first) truth_fail("waitpid");
    step("between");
    pid_t second = fork_as(first);
    if (second < 0) truth_fail("clone3 with set_tid");
    if (second == 0) {
        close(to_child[1]);
        for (int i = 0; i < 3; i++) second_life(300);
        truth_write(from_child[1], &byte, 1);
        if (read(to_child[0], &byte, 1) < 0) _exit(1);
        _exit(0);
    }
    if (read(from_child[0], &byte, 1) != 1) truth_fail("the child died");
    fact("child", (uint64_t)second);
    fact("same", first == second);
    tell_truth();
    close(to_child[1]);
    waitpid(second, NULL, 0);
    return 0;
}
