/* Tensors of a caching allocator: known sites, segments that stay, a cache that is emptied, exceptions when memory ends.
 * usage: tensors tensors|cache|oom|throws|outside|devices */
#include "gpu.h"
#include "runtime.h"
#include "torch.h"

/* A tensor at a site of its own. That is not the driver's memory: it is compared with what the allocator says. */
#define TENSORS(name)                                                                              \
    SITE(name, "tensor");                                                     \
    extern "C" ALONE void *name(size_t n, int device) {                                            \
        void *tensor = fake_torch::allocate(n, device); took(&name##_site, tensor, fake_torch::block_bytes(n));            \
        return tensor;                                                                             \
    }                                                                                              \
    [[maybe_unused]] static void name##_gone(void *tensor, size_t n) { fake_torch::release(tensor); gave(&name##_site, fake_torch::block_bytes(n)); }
TENSORS(keep)
TENSORS(balanced)
TENSORS(large)
CUDA_TAKES(outside, cudaMalloc, cuMemAlloc_v2, FAKE_DEVICE, void *, cudaMalloc(p, n))

static const size_t MIB = 1 << 20;

/* Ten of 5 MiB, four in each segment of 20; small ones; large ones. */
static void tensors() {
    for (int i = 0; i < 10; i++) keep(5 * MIB, 0);
    for (int i = 0; i < 25; i++) balanced_gone(balanced(100 + i, 0), 100 + i);
    for (int i = 0; i < 2; i++) large(33 * MIB, 0);
    void *freed = large(50 * MIB, 0);
    large_gone(freed, 50 * MIB);
}

/* What is not a tensor's any more is still reserved, until the cache is emptied. */
static void cache() {
    void *of[6];
    for (int i = 0; i < 6; i++) of[i] = large(40 * MIB, 0);
    for (int i = 0; i < 5; i++) large_gone(of[i], 40 * MIB);
    fact("reserved_before", fake_torch::reserved(0));
    fact("given_back", fake_torch::empty_cache());
    keep(100, 0);
}

/* Twenty times too much, caught each time; each asks the driver twice. The harness gives devices of 256 MiB. */
static void oom() {
    int caught = 0;
    keep(5 * MIB, 0);
    for (int i = 0; i < 20; i++) {
        try {
            large(300 * MIB, 0);
        } catch (const c10::OutOfMemoryError &) {
            caught++;
        }
    }
    fact("caught", caught);
    large_gone(large(64 * MIB, 0), 64 * MIB);
}

/* An exception through the probed function itself, each time that a tensor is reported; that it goes is reported well. */
SITE(reported, "tensor");
extern "C" ALONE void reported(int64_t bytes) {
    size_t now = fake_torch::allocated(0) + (bytes > 0 ? size_t(bytes) : 0);
    c10::reportMemoryUsageToProfiler((void *)0x1000, bytes, now, fake_torch::reserved(0), {1, 0});
}

static void throws() {
    int caught = 0;
    keep(5 * MIB, 0);
    for (int i = 0; i < 20; i++) {
        try {
            reported(512);
        } catch (const std::runtime_error &) {
            caught++;
        }
        truth_add(&reported_site.allocs, 1);
        truth_add(&reported_site.alloc_bytes, 512);
        reported(-512);
        gave(&reported_site, 512);
    }
    fact("caught", caught);
    /* The host's memory is none of a GPU's. */
    c10::reportMemoryUsageToProfiler((void *)0x5000, 4096, 4096, 4096, {0, -1});
}

/* Memory that PyTorch does not know of. */
static void others() {
    for (int i = 0; i < 3; i++) outside(7 * MIB);
    keep(5 * MIB, 0);
}

static void devices() {
    for (int i = 0; i < 3; i++) keep(5 * MIB, 1);
    for (int i = 0; i < 2; i++) large(12 * MIB, 0);
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(); } modes[] = {
        {"tensors", tensors}, {"cache", cache}, {"oom", oom}, {"throws", throws}, {"outside", others}, {"devices", devices},
    };
    int number;
    if (cudaGetDeviceCount(&number) != 0) truth_fail("no driver");
    step("ready");
    for (const auto &mode : modes) {
        if (argc != 2 || strcmp(argv[1], mode.name) != 0) continue;
        mode.run();
        uint64_t allocated = keep_site.alloc_bytes + balanced_site.alloc_bytes + large_site.alloc_bytes;
        uint64_t freed = keep_site.freed_bytes + balanced_site.freed_bytes + large_site.freed_bytes;
        if (fake_torch::allocated(0) + fake_torch::allocated(1) != allocated - freed) truth_fail("the allocator says other");
        fact("allocated_0", fake_torch::allocated(0));
        fact("allocated_1", fake_torch::allocated(1));
        fact("reserved_0", fake_torch::reserved(0));
        fact("reserved_1", fake_torch::reserved(1));
        truth_more = gpu_put;
        tell_truth();
        return 0;
    }
    truth_fail("usage: tensors MODE");
}
