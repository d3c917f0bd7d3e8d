// A bus of events. usage: listeners keep|remove
// keep: each session's listener stays when the session has ended. remove: it is taken off after a moment.
#include "../c/corpus.h"
#include <array>
#include <deque>
#include <functional>
SITE(site_listen);
using State = std::array<char, 1200>;
static std::deque<std::function<int()>> bus;
// The closure holds its session's state by value: too large to lie in the std::function itself.
ALONE void site_listen(const State &state) {
    std::function<int()> listener = [state] { return (int)state[7]; };
    bus.push_back(std::move(listener));
    site_listen_site.bytes += sizeof(State), site_listen_site.blocks++;
}
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate sessions = {80, 0};
    bool keep = corpus_is("keep");
    if (keep) site_listen_site.rate = 80 * sizeof(State) * corpus_speed;
    State state{};
    while (corpus_tick())
        for (long n = corpus_due(&sessions); n > 0; n--) {
            state.fill((char)n);
            site_listen(state);
            if (keep || bus.size() <= 60) continue;
            bus.pop_front();
            corpus_gave(&site_listen_site, sizeof(State));
            corpus_once("full");
        }
    corpus_end();
}
