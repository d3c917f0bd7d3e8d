/* Leaks that do not come evenly. usage: over_time batch|rare|slower|later|after
 * batch: fifteen times a job takes its records, and gives them back when it is done, but keeps what came of it. rare: 1 MiB,
 * forty times. slower: ever more rarely, as the root of the time, and without end. later: messages, of which one in twenty
 * is forgotten from a third of the time on. after: 4000 rows are loaded at the start, and more come all the time. */
#include "corpus.h"
enum { RECORDS = 1 << 13, RECORD = 4000, MESSAGE = 1500 };
MALLOC_SITE(site_kept)
MALLOC_SITE(site_record)
static void *records[RECORDS];
static long record_count, batches;
/* How many results there are of a job that ends now. */
static long work(double now) {
    double phase = fmod(now * 15 / corpus_seconds, 1);
    if (phase < 0.4 && batches <= (long)(now * 15 / corpus_seconds))
        for (batches++; record_count < 300 * corpus_speed && record_count < RECORDS;) records[record_count++] = site_record(RECORD);
    if (phase < 0.4 || record_count == 0) return 0;
    while (record_count > 0) drop_site_record(records[--record_count], RECORD);
    if (batches == 2) corpus_once("full");
    return (long)(40 * corpus_speed);
}
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    int batch = corpus_is("batch"), rare = corpus_is("rare"), slower = corpus_is("slower"), later = corpus_is("later");
    size_t size = batch ? 5000 : rare ? 1 << 20 : slower ? 2400 : later ? MESSAGE : 4000;
    struct corpus_rate rate = {rare ? 40 / corpus_seconds : later ? 500 : 25, 0};
    long kept = 0, messages = 0;
    if (!slower) site_kept_site.rate = (batch ? 40 * 15 / corpus_seconds : later ? 25 : rate.per_s) * (double)size * corpus_speed;
    while (corpus_tick()) {
        double now = corpus_now(), loaded = fmin(1, now / corpus_part(0.02));
        corpus_drop_due(drop_site_kept);
        long due = batch ? work(now)
                 : slower ? (long)(3000 * corpus_speed * sqrt(now / corpus_seconds)) - kept
                 : corpus_due(&rate);
        static long rows;
        if (corpus_is("after")) for (; rows < (long)(4000 * corpus_speed * loaded); rows++) due++;
        if (later && now > corpus_part(1.0 / 3)) corpus_once("leaks");
        for (; due > 0; due--, kept++) {
            void *block = site_kept(size);
            if (later && (now < corpus_part(1.0 / 3) || ++messages % 20 != 0)) corpus_later(block, size, corpus_exponential(0.1));
        }
    }
    corpus_end();
}
