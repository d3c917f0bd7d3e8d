/* Eight threads that work off jobs. Each job has a scratch buffer; one in eight leaves a record behind that nobody frees: a
 * little in each thread. usage: workers */
#include "corpus.h"
#include <pthread.h>
enum { THREADS = 8, RECORD = 700, SCRATCH = 3000 };
static int over;
MALLOC_SITE(site_record)
MALLOC_SITE(site_scratch)
static void *work(void *number) {
    struct corpus_rate jobs = {64, 0};
    void *scratch[4] = {NULL};
    long job = (long)(intptr_t)number;
    while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) {
        for (long n = corpus_due(&jobs); n > 0; n--, job++) {
            void **place = &scratch[job % 4];
            if (*place != NULL) drop_site_scratch(*place, SCRATCH);
            *place = site_scratch(SCRATCH);
            if (job % 8 == 0) site_record(RECORD);
        }
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    }
    return NULL;
}
int main(int argc, char **argv) {
    pthread_t threads[THREADS];
    corpus_begin(argc, argv);
    site_record_site.rate = THREADS * 64 / 8 * RECORD * corpus_speed;
    for (intptr_t i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, (void *)i);
    while (corpus_tick()) continue;
    __atomic_store_n(&over, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    corpus_end();
}
