/* Each thread holds a block by a thread-specific key, whose destructor frees it and allocates another one
 * that stays: calls at the very end of a thread's life. */
#include "truth.h"
#include <pthread.h>

TAKES(for_thread, "malloc", malloc(n))
GIVES(for_thread)
TAKES(in_destructor, "malloc", malloc(n))

static pthread_key_t key;
static void destroy(void *block) {
    for_thread_free(block, 96);
    in_destructor(56);
}
static void *run(void *argument) {
    (void)argument;
    pthread_setspecific(key, for_thread(96));
    return NULL;
}

int main(void) {
    if (pthread_key_create(&key, destroy) != 0) truth_fail("pthread_key_create");
    step("ready");
    for (int i = 0; i < 30; i++) {
        pthread_t threads[3];
        for (int j = 0; j < 3; j++)
            if (pthread_create(&threads[j], NULL, run, NULL) != 0) truth_fail("pthread_create");
        for (int j = 0; j < 3; j++) pthread_join(threads[j], NULL);
    }
    tell_truth();
    return 0;
}
