/* Buffers of a GPU, on the driver that the tests have instead of one: each step keeps its activations, eight at a time, and
 * one in four forgets its workspace. usage: gpu */
#include "corpus.h"
#include "../../programs/gpu/driver.h"
enum { KEPT = 8, ACTIVATIONS = 4 << 20, WORKSPACE = 1 << 20 };
#define GPU_SITE_OF(function)                                                                      \
    SITE(function);                                                                                \
    ALONE CUdeviceptr function(size_t size) {                                                      \
        CUdeviceptr memory = 0;                                                                    \
        if (cuMemAlloc_v2(&memory, size) != 0) _exit(97);                                          \
        function##_site.bytes += (int64_t)size, function##_site.blocks++;                          \
        return memory;                                                                             \
    }
GPU_SITE_OF(site_workspace)
GPU_SITE_OF(site_activations)
int main(int argc, char **argv) {
    CUcontext context;
    if (cuInit(0) != 0 || cuCtxCreate_v2(&context, 0, 0) != 0) return 97;
    corpus_begin(argc, argv);
    CUdeviceptr kept[KEPT] = {0};
    struct corpus_rate steps = {20, 0};
    long step = 0;
    site_workspace_site.rate = 5.0 * WORKSPACE * corpus_speed;
    while (corpus_tick())
        for (long n = corpus_due(&steps); n > 0; n--) {
            CUdeviceptr *place = &kept[step++ % KEPT];
            if (*place != 0) cuMemFree_v2(*place), corpus_gave(&site_activations_site, ACTIVATIONS), corpus_once("full");
            *place = site_activations(ACTIVATIONS);
            CUdeviceptr workspace = site_workspace(WORKSPACE);
            if (step % 4 != 0) cuMemFree_v2(workspace), corpus_gave(&site_workspace_site, WORKSPACE);
        }
    corpus_end();
}
