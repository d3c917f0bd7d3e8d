// Views that a model knows by std::weak_ptr. Views close soon, but std::make_shared and its like take object and counts as one
// block, which stays as long as anyone knows of it, weakly or not. usage: weak kept|pruned
// kept: the model forgets none. pruned: it looks for closed ones ten times in the run.
#include "../c/corpus.h"
#include <memory>
SITE(site_view);
template <class T> struct Counted {
    using value_type = T;
    Counted() = default;
    template <class U> Counted(const Counted<U> &) {}
    T *allocate(size_t n) { return (T *)corpus_took(&site_view_site, ::operator new(n * sizeof(T)), n * sizeof(T)); }
    void deallocate(T *block, size_t n) { corpus_gave(&site_view_site, n * sizeof(T)), ::operator delete(block); }
    bool operator==(const Counted &) const { return true; }
};
struct View { char text[2500]; };
enum { MOST = 1 << 18, OPEN = 20 };
static std::weak_ptr<View> known[MOST];
static std::shared_ptr<View> open_views[OPEN];
static long known_count;
ALONE std::shared_ptr<View> site_view() { return std::allocate_shared<View>(Counted<View>()); }
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate views = {50, 0};
    long opened = 0, prunes = 0;
    while (corpus_tick()) {
        for (long n = corpus_due(&views); n > 0 && known_count < MOST; n--) {
            auto &view = open_views[opened++ % OPEN];
            view = site_view();
            known[known_count++] = view;
        }
        if (corpus_is("kept") || corpus_now() * 10 / corpus_seconds < (double)(prunes + 1)) continue;
        prunes++;
        long left = 0;
        for (long i = 0; i < known_count; i++)
            if (!known[i].expired()) std::swap(known[left++], known[i]);
        while (known_count > left) known[--known_count].reset();
        corpus_once("full");
    }
    corpus_end();
}
