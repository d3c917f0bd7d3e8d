/* Producers allocate; every fourth block stays theirs, the others are freed by consumers.
 * usage: threads PRODUCERS BLOCKS_EACH */
#include "truth.h"
#include <pthread.h>

TAKES(produce_kept, "malloc", malloc(n))
TAKES(produce_passed, "malloc", malloc(n))
ALONE void consume(void *block, size_t n) { free(block); gave(&produce_passed_site, n); }

struct item { void *block; size_t size; };
static struct item ring[256];
static size_t head, tail;
static int producers_left;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static uint64_t blocks_each;

static void *produce(void *argument) {
    (void)argument;
    for (uint64_t i = 0; i < blocks_each; i++) {
        size_t size = 32 + i % 97;
        if (i % 4 == 3) {
            produce_kept(size);
            continue;
        }
        struct item item = {produce_passed(size), size};
        pthread_mutex_lock(&lock);
        while (head - tail == 256) pthread_cond_wait(&changed, &lock);
        ring[head++ % 256] = item;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
    }
    pthread_mutex_lock(&lock);
    producers_left--;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void *take_in(void *argument) {
    (void)argument;
    for (;;) {
        pthread_mutex_lock(&lock);
        while (head == tail && producers_left > 0) pthread_cond_wait(&changed, &lock);
        if (head == tail) {
            pthread_mutex_unlock(&lock);
            return NULL;
        }
        struct item item = ring[tail++ % 256];
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
        consume(item.block, item.size);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) truth_fail("usage: threads PRODUCERS BLOCKS_EACH");
    int count = atoi(argv[1]);
    blocks_each = strtoull(argv[2], NULL, 10);
    if (count > 16) truth_fail("at most 16 producers");
    step("ready");
    producers_left = count;
    pthread_t threads[32];
    for (int i = 0; i < count; i++) {
        if (pthread_create(&threads[2 * i], NULL, produce, NULL) != 0) truth_fail("pthread_create");
        if (pthread_create(&threads[2 * i + 1], NULL, take_in, NULL) != 0) truth_fail("pthread_create");
    }
    for (int i = 0; i < 2 * count; i++) pthread_join(threads[i], NULL);
    tell_truth();
    return 0;
}
