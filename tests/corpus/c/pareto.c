/* Lives of Pareto's distribution, alpha 1.5: most are short, a few very long, and what lives has a bound. usage: pareto */
#include "corpus.h"
MALLOC_SITE(site_object)
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate objects = {400, 0};
    while (corpus_tick()) {
        corpus_drop_due(drop_site_object);
        for (long n = corpus_due(&objects); n > 0; n--)
            corpus_later(site_object(2000), 2000, 0.2 * pow(1 - corpus_random(), -1 / 1.5));
        if (corpus_now() > corpus_part(1.0 / 3)) corpus_once("full");
    }
    corpus_end();
}
