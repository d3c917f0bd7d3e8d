/* A thread that is not the first replaces the program. usage: thread_exec PROGRAM ARGUMENT */
#include "truth.h"
#include <pthread.h>

static char **arguments;

static void *replace(void *unused) {
    (void)unused;
    execv(arguments[1], arguments + 1);
    truth_fail("exec");
}

int main(int argc, char **argv) {
    pthread_t thread;
    if (argc != 3) truth_fail("usage: thread_exec PROGRAM ARGUMENT");
    arguments = argv;
    step("before");
    if (pthread_create(&thread, NULL, replace, NULL) != 0) truth_fail("pthread_create");
    for (;;) pause();
}
