// Parents and children that know each other by std::shared_ptr. usage: shared_cycle strong|weak
// strong: the child owns its parent, and both live for ever. weak: it does not, and both go.
#include "../c/corpus.h"
#include <memory>
SITE(site_node);
struct Node {
    std::shared_ptr<Node> child, parent;
    std::weak_ptr<Node> known;
    char data[1500];
    ~Node();
};
// With the control block of std::make_shared.
static const size_t SIZE = sizeof(Node) + 16;
Node::~Node() { corpus_gave(&site_node_site, SIZE); }
ALONE std::shared_ptr<Node> site_node() {
    auto node = std::make_shared<Node>();
    corpus_took(&site_node_site, node->data, sizeof node->data);
    site_node_site.bytes += (int64_t)(SIZE - sizeof node->data);
    return node;
}
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    bool strong = corpus_is("strong");
    struct corpus_rate requests = {60, 0};
    if (strong) site_node_site.rate = 2 * 60 * SIZE * corpus_speed;
    std::shared_ptr<Node> last;
    while (corpus_tick())
        for (long n = corpus_due(&requests); n > 0; n--) {
            std::shared_ptr<Node> made[2];
            for (auto &node : made) node = site_node();
            auto parent = made[0];
            parent->child = made[1];
            if (strong) parent->child->parent = parent;
            else parent->child->known = parent;
            last = parent;
            corpus_once("full");
        }
    corpus_end();
}
