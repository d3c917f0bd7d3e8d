/* A timer's signal handler allocates and frees while the main loop does; the signal is blocked only
 * inside the allocator, which is not reentrant. */
#include "truth.h"
#include <signal.h>
#include <sys/time.h>

TAKES(in_handler, "malloc", malloc(n))
GIVES(in_handler)
TAKES(in_loop, "malloc", malloc(n))
GIVES(in_loop)

static volatile int signals;
static void handler(int signal) {
    (void)signal;
    void *block = in_handler(33);
    if (signals++ % 2 == 0) in_handler_free(block, 33);
}

int main(void) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    struct itimerval every = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
    sigset_t alarm_only;
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    sigaction(SIGALRM, &action, NULL);
    step("ready");
    setitimer(ITIMER_REAL, &every, NULL);
    for (uint64_t i = 0; signals < 50; i++) {
        sigprocmask(SIG_BLOCK, &alarm_only, NULL);
        void *block = in_loop(64);
        sigprocmask(SIG_UNBLOCK, &alarm_only, NULL);
        for (volatile int spin = 0; spin < 2000; spin++) {}
        sigprocmask(SIG_BLOCK, &alarm_only, NULL);
        if (i % 100 != 0) in_loop_free(block, 64);
        sigprocmask(SIG_UNBLOCK, &alarm_only, NULL);
    }
    setitimer(ITIMER_REAL, &never, NULL);
    tell_truth();
    return 0;
}
