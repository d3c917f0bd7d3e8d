/* The runtime library opens the driver only when the harness lets it go; then it waits at the step "loaded". */
#include "gpu.h"
#include "runtime.h"

CUDA_TAKES(kept, cudaMalloc, cuMemAlloc_v2, FAKE_DEVICE, void *, cudaMalloc(p, n))
GPU_GIVES(kept, void *, cudaFree(p))

int main(void) {
    int devices;
    step("ready");
    if (cudaGetDeviceCount(&devices) != 0) truth_fail("no driver");
    step("loaded");
    for (int i = 0; i < 7; i++) kept(3 << 20);
    for (int i = 0; i < 5; i++) kept_free(kept(3 << 20), 3 << 20);
    tell_gpu_truth();
    return 0;
}
