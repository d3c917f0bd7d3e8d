/* storm SHORT RATE SECONDS BLOCKS SIZE: starts RATE processes a second for SECONDS, by turns by fork, fork
 * and exec, vfork and exec, and posix_spawn; each lives a few milliseconds, leaks BLOCKS blocks of SIZE
 * bytes and answers. Its exit status and its answer are checked. Facts: how many there were, how many of
 * them exited with 0, and how many answered right, by way; the most that lived at once; the time it took. */
#define _GNU_SOURCE
#include "short.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>

enum { FORK, FORK_EXEC, VFORK_EXEC, SPAWN, WAYS };
static const char *const started_by[WAYS] = {"fork", "fork_exec", "vfork_exec", "spawn"};

/* More than that many at once are not started: what comes too fast waits. */
enum { MOST = 512 };
struct child { pid_t pid; int answer; uint64_t token; };
static struct child children[MOST];

static uint64_t started[WAYS], well, right, at_once, most_at_once;
static uint64_t blocks;
static size_t size;
static char *program, token_text[24], *blocks_text, *size_text;

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* In the child: its stdout is the pipe. After vfork nothing else may be touched. */
static void become_short(int to) {
    char *arguments[] = {program, token_text, blocks_text, size_text, NULL};
    if (dup2(to, 1) == 1) execv(program, arguments);
    _exit(96);
}

static pid_t spawned(int to) {
    char *arguments[] = {program, token_text, blocks_text, size_text, NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;
    if (posix_spawn_file_actions_init(&actions) != 0) truth_fail("posix_spawn_file_actions_init");
    if (posix_spawn_file_actions_adddup2(&actions, to, 1) != 0) truth_fail("posix_spawn_file_actions_adddup2");
    if (posix_spawn(&pid, program, &actions, NULL, arguments, environ) != 0) truth_fail("posix_spawn");
    posix_spawn_file_actions_destroy(&actions);
    return pid;
}

static void start(struct child *child, uint64_t token) {
    int ends[2], way = (int)(token % WAYS);
    /* Closed by exec: a child has no end of another's pipe. */
    if (pipe2(ends, O_CLOEXEC) != 0) truth_fail("pipe2");
    token_text[short_line(token, token_text) - 1] = 0;
    pid_t pid;
    switch (way) {
    case FORK:
        pid = fork();
        if (pid == 0) {
            if (dup2(ends[1], 1) != 1) _exit(96);
            short_life(token, blocks, size);
            _exit(0);
        }
        break;
    case FORK_EXEC:
        pid = fork();
        if (pid == 0) become_short(ends[1]);
        break;
    case VFORK_EXEC:
        pid = vfork();
        if (pid == 0) become_short(ends[1]);
        break;
    default: pid = spawned(ends[1]);
    }
    if (pid < 0) truth_fail("fork");
    close(ends[1]);
    *child = (struct child){pid, ends[0], token};
    started[way]++;
    if (++at_once > most_at_once) most_at_once = at_once;
}

/* A child has ended: its answer is in the pipe, all of it. */
static void check(struct child *child, int status) {
    char answer[64], wanted[24];
    size_t length = short_line(short_answer(child->token, blocks, size), wanted), got = 0;
    ssize_t more;
    while ((more = read(child->answer, answer + got, sizeof answer - got)) > 0) got += (size_t)more;
    well += WIFEXITED(status) && WEXITSTATUS(status) == 0;
    right += got == length && memcmp(answer, wanted, length) == 0;
    close(child->answer);
    child->pid = 0;
    at_once--;
}

/* Sees to those that have ended. */
static void reap(int options) {
    int status;
    pid_t pid;
    while (at_once > 0 && (pid = waitpid(-1, &status, options)) > 0) {
        for (struct child *child = children; child < children + MOST; child++)
            if (child->pid == pid) check(child, status);
        if (options == 0 && at_once < MOST / 2) return;
    }
}

static struct child *vacant(void) {
    for (struct child *child = children; child < children + MOST; child++)
        if (child->pid == 0) return child;
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 6) truth_fail("storm SHORT RATE SECONDS BLOCKS SIZE");
    uint64_t rate = strtoull(argv[2], NULL, 10), all = rate * strtoull(argv[3], NULL, 10);
    program = argv[1];
    blocks_text = argv[4];
    size_text = argv[5];
    blocks = strtoull(blocks_text, NULL, 10);
    size = strtoull(size_text, NULL, 10);
    step("ready");
    uint64_t begin = now_ns();
    for (uint64_t token = 0; token < all; token++) {
        reap(WNOHANG);
        uint64_t due = begin + token * 1000000000u / rate, now = now_ns();
        if (now < due) {
            struct timespec rest = {0, (long)(due - now)};
            nanosleep(&rest, NULL);
        }
        struct child *child;
        while ((child = vacant()) == NULL) reap(0);
        start(child, token);
    }
    while (at_once > 0) reap(0);
    fact("started", all);
    for (int way = 0; way < WAYS; way++) fact(started_by[way], started[way]);
    fact("exited_with_0", well);
    fact("answered_right", right);
    fact("most_at_once", most_at_once);
    fact("milliseconds", (now_ns() - begin) / 1000000);
    fact("leaked_blocks", all * blocks);
    fact("leaked_bytes", all * blocks * size);
    tell_truth();
    return 0;
}
