/* One site, two thousand times a second; one block in two hundred is never given back. usage: under_churn */
#include "corpus.h"
MALLOC_SITE(site_message)
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate messages = {2000, 0};
    long count = 0;
    site_message_site.rate = 2000 / 200 * 1000 * corpus_speed;
    while (corpus_tick()) {
        corpus_drop_due(drop_site_message);
        for (long n = corpus_due(&messages); n > 0; n--) {
            void *block = site_message(1000);
            if (++count % 200 != 0) corpus_later(block, 1000, corpus_exponential(0.05));
        }
    }
    corpus_end();
}
