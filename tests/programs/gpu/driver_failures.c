/* Calls of the driver that fail, beside some that do not: too much, nothing, unknown, before it is initialised. Frees
 * that fail leave what they name. usage: driver_failures */
#include "gpu.h"

#define PIB (1ull << 50)

GPU_TAKES(kept, cuMemAlloc_v2, FAKE_DEVICE, CUdeviceptr, cuMemAlloc_v2(p, n))
GPU_GIVES(kept, CUdeviceptr, cuMemFree_v2(p))
GPU_TAKES(kept_host, cuMemAllocHost_v2, FAKE_PINNED, void *, cuMemAllocHost_v2(p, n))
GPU_GIVES(kept_host, void *, cuMemFreeHost(p))

/* What is there before a failed call must not be taken for its result. */
#define FAILS(name, type, api, expected, bytes, call)                                              \
    ALONE void name(void) {                                                                        \
        type made = (type)0xdeadbeef000; type *p = &made; int result = (call);                          \
        gpu_failed(#api, #api, result, expected, bytes);                                           \
    }

FAILS(fail_alloc, CUdeviceptr, cuMemAlloc_v2, CU_OUT_OF_MEMORY, PIB, cuMemAlloc_v2(p, PIB))
FAILS(fail_alloc_nothing, CUdeviceptr, cuMemAlloc_v2, CU_INVALID_VALUE, 0, cuMemAlloc_v2(p, 0))
FAILS(fail_managed, CUdeviceptr, cuMemAllocManaged, CU_OUT_OF_MEMORY, PIB, cuMemAllocManaged(p, PIB, 1))
FAILS(fail_async, CUdeviceptr, cuMemAllocAsync, CU_OUT_OF_MEMORY, PIB, cuMemAllocAsync(p, PIB, NULL))
FAILS(fail_host, void *, cuMemAllocHost_v2, CU_OUT_OF_MEMORY, PIB, cuMemAllocHost_v2(p, PIB))
FAILS(fail_host_alloc, void *, cuMemHostAlloc, CU_OUT_OF_MEMORY, PIB, cuMemHostAlloc(p, PIB, 0))
/* Before the driver is initialised; the pointer is never touched. */
FAILS(fail_too_early, CUdeviceptr, cuMemAlloc_v2, CU_NOT_INITIALISED, 4096, cuMemAlloc_v2(p == NULL ? p : (CUdeviceptr *)16, 4096))

ALONE void fail_create(void) {
    CUmemProp prop = {.type = 1, .location = {CU_ON_DEVICE, 0}};
    CUhandle handle;
    int result = cuMemCreate(&handle, PIB, &prop, 0); gpu_failed("cuMemCreate", "cuMemCreate", result, CU_OUT_OF_MEMORY, PIB);
}
/* Of different sizes from one place: all together, and the largest. */
ALONE void fail_sizes(void) {
    CUdeviceptr p;
    for (uint64_t n = 1; n <= 3; n++) {
        int result = cuMemAlloc_v2(&p, n << 45); gpu_failed("cuMemAlloc_v2", "cuMemAlloc_v2", result, CU_OUT_OF_MEMORY, n << 45);
    }
}

/* The free fails for another reason than the block: that is still there, and is freed later. */
ALONE void free_that_fails(CUdeviceptr p, void *host) {
    fake_gpu_fail_next_free(CU_INVALID_HANDLE);
    if (cuMemFree_v2(p) != CU_INVALID_HANDLE) truth_fail("a free succeeded");
    fake_gpu_fail_next_free(CU_INVALID_HANDLE);
    if (cuMemFreeHost(host) != CU_INVALID_HANDLE) truth_fail("a free succeeded");
}

ALONE void free_what_is_not_there(void) {
    if (cuMemFree_v2(0xabc000) != CU_INVALID_VALUE) truth_fail("a free succeeded");
    if (cuMemFreeAsync(0xabc000, NULL) != CU_INVALID_VALUE) truth_fail("a free succeeded");
    if (cuMemRelease(0xabc) != CU_INVALID_VALUE) truth_fail("a release succeeded");
}

int main(void) {
    CUcontext context;
    step("ready");
    fail_too_early();
    if (cuInit(0) != 0 || cuCtxCreate_v2(&context, 0, 0) != 0) truth_fail("context");
    for (int i = 0; i < 5; i++) {
        fail_alloc();
        fail_alloc_nothing();
        fail_managed();
        fail_async();
        fail_host();
        fail_host_alloc();
        fail_create();
    }
    fail_sizes();
    for (int i = 0; i < 3; i++) kept(777);
    CUdeviceptr p = kept(777);
    void *host = kept_host(778);
    free_that_fails(p, host);
    kept_free(kept(777), 777);
    kept_host_free(host, 778);
    free_what_is_not_there();
    tell_gpu_truth();
    return 0;
}
