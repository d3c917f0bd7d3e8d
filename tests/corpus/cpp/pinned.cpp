// Slices of chunks of 32 KiB; a chunk goes when the last of its slices does. usage: pinned kept|expires
// Most slices are a request's and soon go. One in sixteen is a user's name, which lives on and with it the whole chunk. kept: for
// ever. expires: for a sixth of the time.
#include "../c/corpus.h"
#include <memory>
SITE(site_chunk);
struct Chunk {
    char data[32 << 10];
    ~Chunk();
};
// With the control block of std::make_shared.
static const size_t SIZE = sizeof(Chunk) + 16, SLICE = 1024;
Chunk::~Chunk() { corpus_gave(&site_chunk_site, SIZE); }
ALONE std::shared_ptr<Chunk> site_chunk() {
    auto chunk = std::make_shared<Chunk>();
    corpus_took(&site_chunk_site, chunk->data, sizeof chunk->data);
    site_chunk_site.bytes += (int64_t)(SIZE - sizeof chunk->data);
    return chunk;
}
static std::shared_ptr<Chunk> chunk;
static size_t used;
static std::shared_ptr<char> slice() {
    if (chunk == nullptr || used + SLICE > sizeof chunk->data) chunk = site_chunk(), used = 0;
    used += SLICE;
    return std::shared_ptr<char>(chunk, chunk->data + used - SLICE);
}
// The last 60 slices are in use; the names of all users, at most so many, are known.
static std::shared_ptr<char> requests[60], names[1 << 18];
static double since[1 << 18];
int main(int argc, char **argv) {
    corpus_begin(argc, argv);
    struct corpus_rate rate = {200, 0};
    long request = 0, named = 0, expired = 0;
    while (corpus_tick()) {
        for (; corpus_is("expires") && expired < named && since[expired] < corpus_now() - corpus_part(1.0 / 6); expired++) {
            names[expired] = nullptr;
            corpus_once("full");
        }
        for (long n = corpus_due(&rate); n > 0; n--) {
            requests[request++ % 60] = slice();
            if (corpus_random() >= 1.0 / 16 || named == 1 << 18) continue;
            since[named] = corpus_now(), names[named++] = slice();
        }
    }
    corpus_end();
}
