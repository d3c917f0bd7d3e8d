/* 200 threads at once, each with 50 blocks of which one stays; half of them exit at once, half stay to
 * the end. Before that, 200 threads one after another, each leaving one block. */
#include "truth.h"
#include <pthread.h>

enum { THREADS = 200, BLOCKS = 50 };
TAKES(short_thread_kept, "malloc", malloc(n))
TAKES(long_thread_kept, "malloc", malloc(n))
TAKES(sequential_kept, "malloc", malloc(n))
TAKES(thread_churn, "malloc", malloc(n))
GIVES(thread_churn)

static pthread_barrier_t all_started, all_done, may_exit;

static void churn_some(void) {
    void *blocks[BLOCKS - 1];
    for (int i = 0; i < BLOCKS - 1; i++) blocks[i] = thread_churn(64);
    for (int i = 0; i < BLOCKS - 1; i++) thread_churn_free(blocks[i], 64);
}

static void *one_of_many(void *argument) {
    pthread_barrier_wait(&all_started);
    churn_some();
    int stays = (uintptr_t)argument % 2;
    if (stays) long_thread_kept(48);
    else short_thread_kept(40);
    pthread_barrier_wait(&all_done);
    if (stays) pthread_barrier_wait(&may_exit);
    return NULL;
}

static void *one_after_another(void *argument) {
    (void)argument;
    churn_some();
    sequential_kept(24);
    return NULL;
}

int main(void) {
    static pthread_t threads[THREADS];
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 128 * 1024);
    pthread_barrier_init(&all_started, NULL, THREADS);
    pthread_barrier_init(&all_done, NULL, THREADS + 1);
    pthread_barrier_init(&may_exit, NULL, THREADS / 2 + 1);
    step("ready");
    for (int i = 0; i < THREADS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, &small, one_after_another, NULL) != 0) truth_fail("pthread_create");
        pthread_join(thread, NULL);
    }
    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], &small, one_of_many, (void *)i) != 0) truth_fail("pthread_create");
    pthread_barrier_wait(&all_done);
    for (int i = 0; i < THREADS; i += 2) pthread_join(threads[i], NULL);
    tell_truth();
    pthread_barrier_wait(&may_exit);
    for (int i = 1; i < THREADS; i += 2) pthread_join(threads[i], NULL);
    return 0;
}
