/* Short and long lives mixed: between blocks that go lie blocks that stay, so that the heap cannot shrink. For a third of the
 * time 16 blocks of 1000 bytes are taken for each pin of 100; then the blocks go and the pins stay. usage: fragmentation */
#include "corpus.h"
enum { MOST = 1 << 18 };
static void *blocks[MOST];
static long count;
MALLOC_SITE(site_block)
MALLOC_SITE(site_pin)
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate pins = {20e6 / 16000 / corpus_part(1.0 / 3) * 1.5, 0};
    while (corpus_tick()) {
        if (corpus_now() < corpus_part(1.0 / 3)) {
            for (long n = corpus_due(&pins); n > 0 && count + 16 < MOST; n--) {
                site_pin(100);
                for (int i = 0; i < 16; i++) blocks[count++] = site_block(1000);
            }
        } else if (count > 0) {
            while (count > 0) drop_site_block(blocks[--count], 1000);
            corpus_once("freed");
        }
    }
    corpus_end();
}
