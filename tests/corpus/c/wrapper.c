/* All memory comes through one wrapper, which counts: two of its callers leak, a third does not. usage: wrapper */
#include "corpus.h"
ALONE void *checked_alloc(size_t size) {
    void *block = malloc(size);
    if (block == NULL) abort();
    return block;
}
#define WRAPPED_SITE(function)                                                                     \
    SITE(function);                                                                                \
    ALONE void *function(size_t size) { return corpus_took(&function##_site, checked_alloc(size), size); }
WRAPPED_SITE(site_header)
WRAPPED_SITE(site_cookie)
WRAPPED_SITE(site_body)
static void drop_body(void *block, size_t size) { corpus_gave(&site_body_site, size), free(block); }
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate headers = {50, 0}, cookies = {20, 0}, bodies = {400, 0};
    site_header_site.rate = 50 * 1500 * corpus_speed, site_cookie_site.rate = 20 * 5000 * corpus_speed;
    while (corpus_tick()) {
        corpus_drop_due(drop_body);
        for (long n = corpus_due(&headers); n > 0; n--) site_header(1500);
        for (long n = corpus_due(&cookies); n > 0; n--) site_cookie(5000);
        for (long n = corpus_due(&bodies); n > 0; n--) corpus_later(site_body(2000), 2000, corpus_exponential(0.1));
    }
    corpus_end();
}
