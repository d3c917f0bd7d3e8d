// A queue between two threads. usage: consumer dies|restarts
// dies: a third of the time in, the one that takes from it ends, and nobody notices. restarts: the same, but it is started anew
// at half of the time and catches up.
#include "../c/corpus.h"
#include <array>
#include <deque>
#include <mutex>
#include <thread>
SITE(site_push);
// All that the queue takes: a block for each message, and the array of their addresses.
template <class T> struct Counted {
    using value_type = T;
    Counted() = default;
    template <class U> Counted(const Counted<U> &) {}
    T *allocate(size_t n) { return (T *)corpus_took(&site_push_site, ::operator new(n * sizeof(T)), n * sizeof(T)); }
    void deallocate(T *block, size_t n) { corpus_gave(&site_push_site, n * sizeof(T)), ::operator delete(block); }
    bool operator==(const Counted &) const { return true; }
    bool operator!=(const Counted &) const { return false; }
};
using Message = std::array<char, 2000>;
static std::mutex lock;
static bool over;
ALONE void site_push(std::deque<Message, Counted<Message>> &queue, const Message &message) { queue.push_back(message); }
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    std::deque<Message, Counted<Message>> queue;
    auto consume = [&queue](double until) {
        while (corpus_now() < until) {
            // At most two a millisecond: what has piled up is gone in a while.
            for (int n = 0; n < 2; n++) {
                std::lock_guard<std::mutex> held(lock);
                if (over) return;
                if (queue.empty()) break;
                queue.pop_front();
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    };
    std::thread first(consume, corpus_part(1.0 / 3)), second;
    struct corpus_rate rate = {150, 0};
    if (corpus_is("dies")) site_push_site.rate = 150 * sizeof(Message) * corpus_speed;
    Message message{};
    while (corpus_tick()) {
        if (corpus_now() > corpus_part(1.0 / 3)) corpus_once("dead");
        if (corpus_is("restarts") && corpus_now() > corpus_part(0.5) && !second.joinable())
            second = std::thread(consume, 2 * corpus_seconds);
        std::lock_guard<std::mutex> held(lock);
        if (second.joinable() && queue.empty()) corpus_once("full");
        for (long n = corpus_due(&rate); n > 0; n--) site_push(queue, message);
    }
    lock.lock(), over = true, lock.unlock();
    first.join();
    if (second.joinable()) second.join();
    corpus_end();
}
