// Least recently used goes first. usage: lru small|large|beside|full
// small: 128 entries, soon full. large: 100 000, full after a third of the time. beside: of 500, and what is found is logged in a
// buffer that nobody frees. full: 5000 entries that are there within a thirtieth of the time and replaced within a fifth.
#include "../c/corpus.h"
#include <list>
#include <unordered_map>
SITE(site_entry);
SITE(site_leak);
ALONE char *site_entry(size_t size) { return (char *)corpus_took(&site_entry_site, new char[size], size); }
ALONE char *site_leak(size_t size) { return (char *)corpus_took(&site_leak_site, new char[size], size); }

struct Entry { long key; char *value; };
static std::list<Entry> recent;
static std::unordered_map<long, std::list<Entry>::iterator> by_key;

static void look_up(long key, size_t size, size_t bound) {
    auto found = by_key.find(key);
    if (found != by_key.end()) return recent.splice(recent.begin(), recent, found->second);
    if (recent.size() == bound) {
        corpus_once("full");
        by_key.erase(recent.back().key);
        delete[] recent.back().value;
        corpus_gave(&site_entry_site, size);
        recent.pop_back();
    }
    recent.push_front({key, site_entry(size)});
    by_key[key] = recent.begin();
}
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    bool large = corpus_is("large"), full = corpus_is("full");
    size_t bound = large ? 100000 : full ? 5000 : corpus_is("small") ? 128 : 500, size = large ? 500 : 4000;
    // The large one is filled in the same time at both speeds: what follows is one part of the time at least.
    double per_s = large ? 1e5 / corpus_part(1.0 / 3) / corpus_speed * (corpus_speed > 1 ? 2 : 1) : full ? 5000 / corpus_part(0.2) : 100;
    struct corpus_rate entries = {per_s, 0}, leaks = {40, 0};
    if (corpus_is("beside")) site_leak_site.rate = 40 * 3000 * corpus_speed;
    long key = 0;
    while (corpus_tick()) {
        double filled = full ? corpus_now() / corpus_part(1.0 / 30) * (double)bound : 0;
        while ((double)key < filled && key < (long)bound) look_up(key++, size, bound);
        for (long n = corpus_due(&entries); n > 0; n--) {
            // One look-up in five is of what was asked for lately.
            if (key > 50 && corpus_random() < 0.2) look_up(key - 1 - corpus_below(50), size, bound);
            look_up(key++, size, bound);
        }
        for (long n = corpus_is("beside") ? corpus_due(&leaks) : 0; n > 0; n--) site_leak(3000);
    }
    corpus_end();
}
