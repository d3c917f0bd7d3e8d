/* Pairs of malloc and free as fast as they go, from "ready" until the step "busy" is over; then nothing at all. */
#include <pthread.h>
#include <stdatomic.h>

#include "truth.h"

SITE(churn, "malloc");
ALONE void churn(size_t size) {
    void *block = malloc(size); took(&churn_site, block, size);
    free(block);
    gave(&churn_site, size);
}

static atomic_int over;
static void *work(void *unused) {
    (void)unused;
    for (uint64_t pair = 0; !atomic_load(&over); pair++) churn(16 + pair % 500);
    return NULL;
}

int main(void) {
    pthread_t thread;
    step("ready");
    if (pthread_create(&thread, NULL, work, NULL) != 0) truth_fail("no thread");
    step("busy");
    atomic_store(&over, 1);
    pthread_join(thread, NULL);
    step("idle");
    tell_truth();
    return 0;
}
