// A std::map by order number. usage: map keep|erase
// keep: orders are never taken out. erase: the oldest goes once there are 500.
#include "../c/corpus.h"
#include <array>
#include <map>
SITE(site_insert);
using Order = std::array<char, 900>;
static std::map<long, Order> orders;
static const size_t NODE = sizeof(std::_Rb_tree_node<std::pair<const long, Order>>);
ALONE void site_insert(long number) { corpus_took(&site_insert_site, &orders[number], sizeof(Order)); }
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate rate = {150, 0};
    bool keep = corpus_is("keep");
    if (keep) site_insert_site.rate = 150 * (double)NODE * corpus_speed;
    long number = 0;
    while (corpus_tick())
        for (long n = corpus_due(&rate); n > 0; n--) {
            site_insert(number++);
            site_insert_site.bytes += (int64_t)(NODE - sizeof(Order));
            if (keep || orders.size() <= 500) continue;
            orders.erase(orders.begin());
            corpus_gave(&site_insert_site, NODE);
            corpus_once("full");
        }
    corpus_end();
}
