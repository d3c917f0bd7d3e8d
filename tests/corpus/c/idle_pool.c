/* A pool of connections. A request takes the one that was used last, or a new one if none is idle, and brings it back; what
 * has been idle for a tenth of the time is closed. Twelve times in the run many requests come at once. usage: idle_pool */
#include "corpus.h"
enum { MOST = 1 << 12, SIZE = 16000 };
static struct { void *connection; double since; } idle[MOST];
static long idle_count;
MALLOC_SITE(site_connection)
static void bring_back(void *connection, size_t size) {
    (void)size;
    if (idle_count == MOST) _exit(97);
    idle[idle_count].connection = connection, idle[idle_count++].since = corpus_now();
}
static void close_idle(void) {
    long gone = 0;
    for (; gone < idle_count && idle[gone].since < corpus_now() - corpus_part(0.1); gone++) drop_site_connection(idle[gone].connection, SIZE);
    idle_count -= gone;
    memmove(idle, idle + gone, (size_t)idle_count * sizeof *idle);
}
int main(int argc, char **argv) {
    static const long AT_ONCE[] = {80, 25, 60, 15, 45};
    corpus_begin(argc, argv);
    struct corpus_rate requests = {100, 0};
    long crowds = 0;
    while (corpus_tick()) {
        corpus_drop_due(bring_back);
        close_idle();
        long due = corpus_due(&requests);
        if (corpus_now() * 12 / corpus_seconds > (double)crowds + 0.5) due += (long)((double)AT_ONCE[crowds++ % 5] * corpus_speed);
        for (; due > 0; due--)
            corpus_later(idle_count > 0 ? idle[--idle_count].connection : site_connection(SIZE), SIZE, corpus_exponential(0.1));
        /* The largest crowd has come and gone. */
        if (corpus_now() > corpus_part(0.2)) corpus_once("full");
    }
    corpus_end();
}
