/* Memory that is taken and given back as a whole. usage: arena minute|batch|leaky|queue|behind
 * minute: an arena is filled for a seventh of the time, then reset. batch: a job takes 20 MB for the first quarter of each
 * seventh. leaky: so does this one, and forgets a tenth of it each time. queue: the consumer lags for a seventh of the time, and drains the queue in a tenth of that.
 * behind: the consumer takes two of three, the oldest first, and the queue grows for ever. */
#include "corpus.h"
enum { MOST = 1 << 16 };
static void *held[MOST];
static long count, oldest;
MALLOC_SITE(site_chunk)
static void reset(long kept, size_t size) {
    while (count > kept) drop_site_chunk(held[--count], size);
}
static void take(long n, size_t size) {
    for (; n > 0 && count < MOST; n--) held[count++] = site_chunk(size);
}
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate minute = {80, 0}, queue = {150, 0}, consumer = {100, 0};
    double period = corpus_part(1.0 / 7);
    long periods = 0, per_tick = 0, forgotten = 0;
    if (corpus_is("leaky")) site_chunk_site.rate = 20 * 100000 * corpus_speed / period;
    if (corpus_is("behind")) site_chunk_site.rate = 50 * 4000 * corpus_speed;
    while (corpus_tick()) {
        double phase = fmod(corpus_now(), period) / period;
        int turned = (long)(corpus_now() / period) > periods;
        periods = (long)(corpus_now() / period);
        if (corpus_is("minute")) {
            if (turned) reset(0, 8000), corpus_once("full");
            take(corpus_due(&minute), 8000);
        } else if (corpus_is("behind")) {
            take(corpus_due(&queue), 4000);
            for (long n = corpus_due(&consumer); n > 0 && oldest < count; n--) drop_site_chunk(held[oldest++], 4000);
        } else if (corpus_is("batch") || corpus_is("leaky")) {
            if (phase < 0.25 && count == forgotten) take((long)(200 * corpus_speed), 100000);
            if (phase >= 0.25 && count > forgotten) {
                if (corpus_is("leaky")) forgotten += (long)(20 * corpus_speed);
                reset(forgotten, 100000);
            }
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
