/* A picture is drawn into a buffer behind the one that is shown; then they change places and the one before goes. Its size
 * follows that of a window that is pulled larger and smaller. usage: frames */
#include "corpus.h"
MALLOC_SITE(site_frame)
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate frames = {24, 0};
    void *shown = NULL;
    size_t shown_size = 0;
    while (corpus_tick())
        for (long n = corpus_due(&frames); n > 0; n--) {
            double width = 640 + 160 * sin(2 * M_PI * corpus_now() / corpus_part(0.05));
            size_t size = (size_t)width * 400 * 4;
            void *drawn = site_frame(size);
            if (shown != NULL) drop_site_frame(shown, shown_size), corpus_once("full");
            shown = drawn, shown_size = size;
        }
    corpus_end();
}
