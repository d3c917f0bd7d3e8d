/* Holds nine blocks and ends in the way that is asked for.
 * usage: exits return|exit|_exit|quick_exit|abort|segv|stay|busy_threads|main_thread_first|from_thread */
#include "truth.h"
#include <pthread.h>

TAKES(held, "malloc", malloc(n))
TAKES(let_go, "malloc", malloc(n))
GIVES(let_go)

ALONE void busy(void) { free(malloc(48)); }

static void *never_stop(void *argument) {
    (void)argument;
    for (;;) busy();
    return NULL;
}

static volatile int main_is_gone;
static void *outlive_main(void *argument) {
    pthread_join(*(pthread_t *)argument, NULL);
    main_is_gone = 1;
    held(90);
    exit(4);
    return NULL;
}

static void *exit_here(void *argument) {
    (void)argument;
    exit(5);
    return NULL;
}

int main(int argc, char **argv) {
    static pthread_t main_thread;
    pthread_t thread;
    const char *how = argc > 1 ? argv[1] : "return";
    step("ready");
    for (int i = 0; i < 9; i++) held(90);
    let_go_free(let_go(33), 33);
    if (strcmp(how, "busy_threads") == 0)
        for (int i = 0; i < 4; i++) pthread_create(&thread, NULL, never_stop, NULL);
    tell_truth();
    if (strcmp(how, "return") == 0) return 3;
    if (strcmp(how, "exit") == 0) exit(3);
    if (strcmp(how, "_exit") == 0) _exit(3);
    if (strcmp(how, "quick_exit") == 0) quick_exit(3);
    if (strcmp(how, "abort") == 0) abort();
    if (strcmp(how, "segv") == 0) *(volatile int *)8 = 1;
    if (strcmp(how, "busy_threads") == 0) exit(3);
    if (strcmp(how, "stay") == 0)
        for (;;) pause();
    if (strcmp(how, "main_thread_first") == 0) {
        main_thread = pthread_self();
        pthread_create(&thread, NULL, outlive_main, &main_thread);
        pthread_exit(NULL);
    }
    if (strcmp(how, "from_thread") == 0) {
        pthread_create(&thread, NULL, exit_here, NULL);
        for (;;) pause();
    }
    truth_fail("unknown way to end");
}
