/* Does what it is told on stdin, a letter at a time, and answers each with a line:
 *   a  allocates ten blocks of 1000 bytes      f  frees five of them
 *   t  prints its truth                        u  becomes the user of the number in SERVE_UID, or 65534
 *   x  executes its arguments in its place     k  forks a child that allocates as `a` does, in `in_child`,
 *   c  waits for that child's end                 and waits
 * At the end of stdin it exits with 0. */
#define _GNU_SOURCE
#include "truth.h"
#include <signal.h>
#include <sys/wait.h>

TAKES(served, "malloc", malloc(n))
TAKES(in_child, "malloc", malloc(n))
GIVES(served)

enum { MOST = 10000 };
static void *blocks[MOST];
static int held;

static void answer(const char *line) { truth_write(1, line, strlen(line)); }

static void become_another_user(void) {
    const char *text = getenv("SERVE_UID");
    uid_t uid = text ? (uid_t)strtoul(text, NULL, 10) : 65534;
    if (setresgid(uid, uid, uid) != 0 || setresuid(uid, uid, uid) != 0) truth_fail("setresuid");
}

int main(int argc, char **argv) {
    pid_t child = 0;
    answer("ready\n");
    for (int letter; (letter = await_byte()) >= 0;) {
        switch (letter) {
        case 'g': break;
        case 'a':
            if (held + 10 > MOST) truth_fail("too many blocks");
            for (int i = 0; i < 10; i++) blocks[held++] = served(1000);
            answer("allocated\n");
            break;
        case 'f':
            for (int i = 0; i < 5 && held > 0; i++) served_free(blocks[--held], 1000);
            answer("freed\n");
            break;
        case 't': print_truth(); break;
        case 'u':
            become_another_user();
            answer("another user\n");
            break;
        case 'k':
            child = fork();
            if (child < 0) truth_fail("fork");
            if (child == 0) {
                for (int i = 0; i < 10; i++) in_child(1000);
                answer("in child\n");
                for (;;) pause();
            }
            fact("child", (uint64_t)child);
            break;
        case 'c':
            if (kill(child, SIGTERM) != 0 || waitpid(child, NULL, 0) != child) truth_fail("the child");
            answer("child ended\n");
            break;
        case 'x':
            if (argc < 2) truth_fail("nothing to execute");
            execv(argv[1], argv + 1);
            truth_fail("execv");
        default: truth_fail("no such letter");
        }
    }
    return 0;
}
