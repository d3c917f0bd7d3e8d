/* Opens the driver only when the harness lets it go, as all who use it do. It then waits at the step "loaded" unless told
 * not to. usage: late LIBRARY [at_once] */
#include "gpu.h"

static __typeof__(&cuMemAlloc_v2) allocate;
static __typeof__(&cuMemFree_v2) release;
static __typeof__(&cuMemAllocHost_v2) pin;

GPU_TAKES(leak_alloc, cuMemAlloc_v2, FAKE_DEVICE, CUdeviceptr, allocate(p, n))
GPU_GIVES(leak_alloc, CUdeviceptr, release(p))
GPU_TAKES(leak_host, cuMemAllocHost_v2, FAKE_PINNED, void *, pin(p, n))

static void *find(void *library, const char *name, int version) {
    __typeof__(&cuGetProcAddress_v2) address_of = (__typeof__(address_of))dlsym(library, "cuGetProcAddress_v2");
    void *function = NULL;
    int status = -1;
    if (address_of == NULL || address_of(name, &function, version, 0, &status) != 0 || status != 0) truth_fail(name);
    return function;
}

int main(int argc, char **argv) {
    if (argc < 2) truth_fail("usage: late LIBRARY [at_once]");
    step("ready");
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) truth_fail("dlopen");
    if (argc == 2) step("loaded");
    CUcontext context;
    __typeof__(&cuInit) init = (__typeof__(init))find(library, "cuInit", 2000);
    __typeof__(&cuCtxCreate_v2) create = (__typeof__(create))find(library, "cuCtxCreate", 3020);
    allocate = (__typeof__(allocate))find(library, "cuMemAlloc", 13000);
    release = (__typeof__(release))find(library, "cuMemFree", 13000);
    pin = (__typeof__(pin))find(library, "cuMemAllocHost", 13000);
    if (init(0) != 0 || create(&context, 0, 0) != 0) truth_fail("context");
    for (int i = 0; i < 5; i++) leak_alloc(3 << 20);
    for (int i = 0; i < 20; i++) leak_alloc_free(leak_alloc(3 << 20), 3 << 20);
    for (int i = 0; i < 2; i++) leak_host(4096);
    tell_gpu_truth();
    return 0;
}
