/* A text that realloc makes longer by 4 KiB whenever it is too short. usage: append all|flushed
 * all: a job's whole output is collected in it. flushed: it is written out, and begun anew, when it is as long as a fifth of
 * the time makes it. */
#include "corpus.h"
enum { STEP = 4096, LONGEST = 700 };
static char *text;
static size_t length, capacity;
SITE(site_append);
ALONE void site_append(const char *line, size_t size) {
    if (length + size > capacity) {
        text = realloc(text, capacity + STEP);
        if (text == NULL) _exit(97);
        site_append_site.bytes += STEP, site_append_site.blocks += capacity == 0, capacity += STEP;
    }
    memcpy(text + length, line, size), length += size;
}
int main(int argc, char **argv) {
    char line[LONGEST];
    memset(line, 'x', sizeof line);
    corpus_begin(argc, argv);
    struct corpus_rate lines = {200, 0};
    /* Whole steps: what is as long as this has no room for a line more. */
    size_t bound = (size_t)(200 * 400 * corpus_part(0.2)) / STEP * STEP;
    while (corpus_tick())
        for (long n = corpus_due(&lines); n > 0; n--) {
            size_t size = 100 + (size_t)corpus_below(LONGEST - 100);
            if (corpus_is("flushed") && length + size > bound) length = 0, corpus_once("full");
            site_append(line, size);
        }
    corpus_end();
}
