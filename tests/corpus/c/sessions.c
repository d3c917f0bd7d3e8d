/* Sessions, a few of which last very long: as Pareto has it, alpha 1.2, but none more than a quarter of the time. One in ten
 * ends in a way that nobody has thought of, and is never closed. usage: sessions */
#include "corpus.h"
enum { SIZE = 3000 };
MALLOC_SITE(site_session)
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate sessions = {100, 0};
    long session_count = 0;
    site_session_site.rate = 100 / 10.0 * SIZE * corpus_speed;
    while (corpus_tick()) {
        corpus_drop_due(drop_site_session);
        for (long n = corpus_due(&sessions); n > 0; n--) {
            void *session = site_session(SIZE);
            double lasts = fmin(0.2 * pow(1 - corpus_random(), -1 / 1.2), corpus_part(0.25));
            if (++session_count % 10 != 0) corpus_later(session, SIZE, lasts);
        }
    }
    corpus_end();
}
