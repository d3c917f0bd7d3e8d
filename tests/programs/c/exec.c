/* Holds blocks when it replaces its own image, which then holds others. Prints a truth for each. */
#include "truth.h"

TAKES(before_exec, "malloc", malloc(n))
TAKES(after_exec, "malloc", malloc(n))
GIVES(before_exec)
GIVES(after_exec)

int main(int argc, char **argv) {
    if (argc > 1) {
        for (int i = 0; i < 3; i++) after_exec(300);
        after_exec_free(after_exec(300), 300);
        tell_truth();
        return 0;
    }
    step("ready");
    for (int i = 0; i < 5; i++) before_exec(500);
    before_exec_free(before_exec(500), 500);
    print_truth();
    char second[] = "second";
    char *arguments[] = {argv[0], second, NULL};
    execv("/proc/self/exe", arguments);
    truth_fail("execv");
}
