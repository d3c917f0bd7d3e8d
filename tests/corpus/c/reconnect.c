/* A client whose server closes the connection now and then: each connect takes three buffers, and the handshake's is
 * forgotten. usage: reconnect */
#include "corpus.h"
MALLOC_SITE(site_handshake)
MALLOC_SITE(site_input)
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate connects = {3, 0};
    void *input[2] = {NULL, NULL};
    site_handshake_site.rate = 3 * 12000 * corpus_speed;
    while (corpus_tick())
        for (long n = corpus_due(&connects); n > 0; n--) {
            for (int i = 0; i < 2; i++) {
                if (input[i] != NULL) drop_site_input(input[i], 16000);
                input[i] = site_input(16000);
            }
            site_handshake(12000);
            corpus_once("full");
        }
    corpus_end();
}
