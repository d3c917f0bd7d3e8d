/* Memory that is taken and given back as a whole. usage: arena minute|batch|queue
 * minute: an arena is filled for a seventh of the time, then reset. batch: a job takes 20 MB for the first quarter of each
 * seventh. queue: the consumer lags for a seventh of the time, and drains the queue in a tenth of that. */
#include "corpus.h"
enum { MOST = 1 << 16 };
static void *held[MOST];
static long count;
MALLOC_SITE(site_chunk)
static void reset(size_t size) {
    while (count > 0) drop_site_chunk(held[--count], size);
}
static void take(long n, size_t size) {
    for (; n > 0 && count < MOST; n--) held[count++] = site_chunk(size);
}
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate minute = {80, 0}, queue = {150, 0};
    double period = corpus_part(1.0 / 7);
    long periods = 0, per_tick = 0;
    while (corpus_tick()) {
        double phase = fmod(corpus_now(), period) / period;
        int turned = (long)(corpus_now() / period) > periods;
        periods = (long)(corpus_now() / period);
        if (corpus_is("minute")) {
            if (turned) reset(8000), corpus_once("full");
            take(corpus_due(&minute), 8000);
        } else if (corpus_is("batch")) {
            if (phase < 0.25 && count == 0) take((long)(200 * corpus_speed), 100000);
            if (phase >= 0.25 && count > 0) reset(100000);
            if (periods == 1 && phase >= 0.25) corpus_once("full");
        } else {
            take(corpus_due(&queue), 4000);
            if (turned) per_tick = 1 + count * 10 / (long)(period / TICK_S);
            for (long n = periods > 0 && phase < 0.12 ? per_tick : 0; n > 0 && count > 0; n--) drop_site_chunk(held[--count], 4000);
            if (periods > 0 && phase >= 0.12) corpus_once("full");
        }
    }
    corpus_end();
}
