/* `libc10_cuda.so` for the tests: a small caching allocator. It owns segments, which it has from cudaMalloc, and blocks in
 * them, which are tensors' memory. It never gives a segment back by itself, and reports each tensor to libc10.so.
 *
 * Sizes as in PyTorch: up to 1 MiB in segments of 2 MiB, up to 10 MiB in segments of 20 MiB, above in one of its own in
 * steps of 2 MiB. */
#include "runtime.h"
#include "torch.h"
#include <algorithm>
#include <list>
#include <map>
#include <mutex>

#define EXPORTED __attribute__((visibility("default"), noipa))

namespace {

constexpr std::size_t KIB = 1024, MIB = 1024 * KIB, GRAIN = 512;

struct Segment {
    char *begin;
    std::size_t bytes, used;
    int device;
    std::map<char *, std::size_t> blocks;

    char *hole(std::size_t wanted) const {
        char *at = begin;
        for (const auto &[block, size] : blocks) {
            if (std::size_t(block - at) >= wanted) return at;
            at = block + size;
        }
        return std::size_t(begin + bytes - at) >= wanted ? at : nullptr;
    }
};

std::mutex lock;
std::list<Segment> segments;
std::size_t allocated_bytes[8], reserved_bytes[8];

std::size_t up(std::size_t bytes, std::size_t step) { return (bytes + step - 1) / step * step; }

std::size_t segment_bytes(std::size_t block) {
    return block <= MIB ? 2 * MIB : block < 10 * MIB ? 20 * MIB : up(block, 2 * MIB);
}

std::size_t give_back() {
    std::size_t count = 0;
    for (auto segment = segments.begin(); segment != segments.end();) {
        auto here = segment++;
        if (here->used > 0) continue;
        cudaFree(here->begin);
        reserved_bytes[here->device] -= here->bytes;
        segments.erase(here);
        count++;
    }
    return count;
}

void report(void *tensor, std::int64_t bytes, int device) {
    c10::reportMemoryUsageToProfiler(tensor, bytes, allocated_bytes[device], reserved_bytes[device], {1, std::int8_t(device)});
}

Segment &grow(std::size_t block, int device) {
    std::size_t bytes = segment_bytes(block);
    void *begin = nullptr;
    cudaSetDevice(device);
    cudaError_t result = cudaMalloc(&begin, bytes);
    if (result != CUDA_OK) {
        give_back();
        result = cudaMalloc(&begin, bytes);
    }
    if (result != CUDA_OK) throw c10::OutOfMemoryError("CUDA out of memory");
    reserved_bytes[device] += bytes;
    segments.push_back({static_cast<char *>(begin), bytes, 0, device, {}});
    return segments.back();
}

} // namespace

namespace fake_torch {

EXPORTED std::size_t block_bytes(std::size_t bytes) { return up(std::max<std::size_t>(bytes, 1), GRAIN); }

EXPORTED void *allocate(std::size_t bytes, int device) {
    std::lock_guard<std::mutex> guard(lock);
    std::size_t block = block_bytes(bytes);
    Segment *found = nullptr;
    for (Segment &segment : segments) {
        bool fits = segment.bytes == segment_bytes(block) && segment.device == device;
        if (fits && segment.hole(block) != nullptr) found = &segment;
    }
    if (found == nullptr) found = &grow(block, device);
    char *tensor = found->hole(block);
    found->blocks[tensor] = block;
    found->used += block;
    allocated_bytes[device] += block;
    report(tensor, std::int64_t(block), device);
    return tensor;
}

EXPORTED void release(void *tensor) {
    std::lock_guard<std::mutex> guard(lock);
    for (Segment &segment : segments) {
        auto block = segment.blocks.find(static_cast<char *>(tensor));
        if (block == segment.blocks.end()) continue;
        std::size_t bytes = block->second;
        segment.blocks.erase(block);
        segment.used -= bytes;
        allocated_bytes[segment.device] -= bytes;
        report(tensor, -std::int64_t(bytes), segment.device);
        return;
    }
}

EXPORTED std::size_t empty_cache() {
    std::lock_guard<std::mutex> guard(lock);
    return give_back();
}

EXPORTED std::size_t allocated(int device) { return allocated_bytes[device]; }
EXPORTED std::size_t reserved(int device) { return reserved_bytes[device]; }

} // namespace fake_torch
