/* Nothing for a tenth of the time, then fifty at once that nobody frees. usage: bursts */
#include "corpus.h"
MALLOC_SITE(site_burst)
MALLOC_SITE(site_request)
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate requests = {500, 0};
    double next = corpus_part(0.05);
    site_burst_site.rate = 50 * 8000 * corpus_speed / corpus_part(0.1);
    while (corpus_tick()) {
        corpus_drop_due(drop_site_request);
        for (long n = corpus_due(&requests); n > 0; n--) corpus_later(site_request(2000), 2000, 0.1);
        if (corpus_now() < next) continue;
        next += corpus_part(0.1);
        for (int n = 0; n < 50 * corpus_speed; n++) site_burst(8000);
    }
    corpus_end();
}
