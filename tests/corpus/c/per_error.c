/* Requests come evenly; one in fifty fails, by chance, and its error path forgets the request's context. usage: per_error */
#include "corpus.h"
MALLOC_SITE(site_context)
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate requests = {150, 0};
    site_context_site.rate = 150.0 / 50 * 6000 * corpus_speed;
    while (corpus_tick()) {
        corpus_drop_due(drop_site_context);
        for (long n = corpus_due(&requests); n > 0; n--) {
            void *context = site_context(6000);
            if (corpus_random() >= 1.0 / 50) corpus_later(context, 6000, 0.02 + corpus_exponential(0.1));
        }
    }
    corpus_end();
}
