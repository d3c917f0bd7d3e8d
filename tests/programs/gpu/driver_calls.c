/* Every call of the driver that makes memory, each in a function of its own: three stay, two are given back. What VMM does
 * is in vmm.c. usage: driver_calls [early]: with a context from before the harness lets it go */
#include "gpu.h"

GPU_TAKES(leak_alloc, cuMemAlloc_v2, FAKE_DEVICE, CUdeviceptr, cuMemAlloc_v2(p, n))
GPU_GIVES(leak_alloc, CUdeviceptr, cuMemFree_v2(p))
GPU_TAKES(leak_managed, cuMemAllocManaged, FAKE_MANAGED, CUdeviceptr, cuMemAllocManaged(p, n, 1))
GPU_GIVES(leak_managed, CUdeviceptr, cuMemFree_v2(p))
GPU_TAKES(leak_async, cuMemAllocAsync, FAKE_DEVICE, CUdeviceptr, cuMemAllocAsync(p, n, NULL))
GPU_GIVES(leak_async, CUdeviceptr, cuMemFreeAsync(p, NULL))
GPU_TAKES(leak_async_ptsz, cuMemAllocAsync, FAKE_DEVICE, CUdeviceptr, cuMemAllocAsync_ptsz(p, n, NULL))
GPU_GIVES(leak_async_ptsz, CUdeviceptr, cuMemFreeAsync_ptsz(p, NULL))
static CUmemoryPool pool;
GPU_TAKES(leak_pool, cuMemAllocFromPoolAsync, FAKE_DEVICE, CUdeviceptr, cuMemAllocFromPoolAsync(p, n, pool, NULL))
GPU_GIVES(leak_pool, CUdeviceptr, cuMemFree_v2(p)) /* takes back these too */
GPU_TAKES(leak_pool_ptsz, cuMemAllocFromPoolAsync, FAKE_DEVICE, CUdeviceptr, cuMemAllocFromPoolAsync_ptsz(p, n, pool, NULL))
GPU_GIVES(leak_pool_ptsz, CUdeviceptr, cuMemFreeAsync_ptsz(p, NULL))

/* The rows are wider than asked for: what counts is what the driver says. */
GPU_SITE(leak_pitch, "cuMemAllocPitch_v2", "cuMemAllocPitch_v2", FAKE_DEVICE);
ALONE CUdeviceptr leak_pitch(size_t n) {
    CUdeviceptr p;
    size_t pitch;
    int result = cuMemAllocPitch_v2(&p, &pitch, 1000, n / 1024, 4); gpu_took(leak_pitch, result, n);
    if (pitch * (n / 1024) != n) truth_fail("another pitch");
    return p;
}
GPU_GIVES(leak_pitch, CUdeviceptr, cuMemFree_v2(p))

GPU_TAKES(leak_alloc_host, cuMemAllocHost_v2, FAKE_PINNED, void *, cuMemAllocHost_v2(p, n))
GPU_GIVES(leak_alloc_host, void *, cuMemFreeHost(p))
GPU_TAKES(leak_host_alloc, cuMemHostAlloc, FAKE_PINNED, void *, cuMemHostAlloc(p, n, 0))
GPU_GIVES(leak_host_alloc, void *, cuMemFreeHost(p))

static char memory[1 << 20];
GPU_SITE(leak_register, "cuMemHostRegister_v2", "cuMemHostRegister_v2", FAKE_REGISTERED);
ALONE void *leak_register(size_t n) {
    static char *next = memory;
    void *p = next;
    int result = cuMemHostRegister_v2(p, n, 0); gpu_took(leak_register, result, n);
    next += 65536;
    return p;
}
GPU_GIVES(leak_register, void *, cuMemHostUnregister(p))

GPU_SITE(leak_array, "cuArrayCreate_v2", "cuArrayCreate_v2", FAKE_ARRAY);
ALONE CUarray leak_array(size_t n) {
    CUarrayDesc desc = {n / 4 / 8, 4, CU_HALF, 4}; /* four channels of two bytes */
    CUarray p;
    int result = cuArrayCreate_v2(&p, &desc); gpu_took(leak_array, result, n);
    return p;
}
GPU_GIVES(leak_array, CUarray, cuArrayDestroy(p))
GPU_SITE(leak_row, "cuArrayCreate_v2", "cuArrayCreate_v2", FAKE_ARRAY);
ALONE CUarray leak_row(size_t n) {
    CUarrayDesc desc = {n, 0, CU_UINT8, 1}; /* no height: one row */
    CUarray p;
    int result = cuArrayCreate_v2(&p, &desc); gpu_took(leak_row, result, n);
    return p;
}
GPU_GIVES(leak_row, CUarray, cuArrayDestroy(p))
GPU_SITE(leak_array3d, "cuArray3DCreate_v2", "cuArray3DCreate_v2", FAKE_ARRAY);
ALONE CUarray leak_array3d(size_t n) {
    CUarray3dDesc desc = {n / 5 / 3 / 8, 5, 3, CU_FLOAT, 2, 0};
    CUarray p;
    int result = cuArray3DCreate_v2(&p, &desc); gpu_took(leak_array3d, result, n);
    return p;
}
GPU_GIVES(leak_array3d, CUarray, cuArrayDestroy(p))
/* 64x32, 32x16, 16x8 of four bytes. */
enum { MIPMAP = 4 * (64 * 32 + 32 * 16 + 16 * 8) };
GPU_SITE(leak_mipmap, "cuMipmappedArrayCreate", "cuMipmappedArrayCreate", FAKE_ARRAY);
ALONE CUmipmappedArray leak_mipmap(size_t n) {
    CUarray3dDesc desc = {64, 32, 0, CU_INT32, 1, 0};
    CUmipmappedArray p;
    int result = cuMipmappedArrayCreate(&p, &desc, 3); gpu_took(leak_mipmap, result, n);
    return p;
}
GPU_GIVES(leak_mipmap, CUmipmappedArray, cuMipmappedArrayDestroy(p))

/* Other processes' memory: of no size here. */
static CUipcHandle handle_of(char key) {
    CUipcHandle handle = {{0}};
    handle.bytes[0] = key;
    return handle;
}
static char key = 1;
GPU_TAKES(leak_ipc, cuIpcOpenMemHandle, FAKE_IPC, CUdeviceptr, cuIpcOpenMemHandle(p, handle_of(key++), 1) + (int)n)
GPU_GIVES(leak_ipc, CUdeviceptr, cuIpcCloseMemHandle(p))
GPU_TAKES(leak_ipc_v2, cuIpcOpenMemHandle_v2, FAKE_IPC, CUdeviceptr, cuIpcOpenMemHandle_v2(p, handle_of(key++), 1) + (int)n)
GPU_GIVES(leak_ipc_v2, CUdeviceptr, cuIpcCloseMemHandle(p))

GPU_TAKES(leak_pool_import, cuMemPoolImportPointer, FAKE_IPC, CUdeviceptr, cuMemPoolImportPointer(p, pool, NULL) + (int)n)
GPU_GIVES(leak_pool_import, CUdeviceptr, cuMemFree_v2(p))

/* Opened once more it is the same address, which lives until it is closed as often. */
ALONE void opened_again(void) {
    CUdeviceptr p = leak_ipc(0), same;
    char of = key - 1;
    if (cuIpcOpenMemHandle_v2(&same, handle_of(of), 1) != 0 || same != p) truth_fail("another address");
    if (cuIpcCloseMemHandle(p) != 0) truth_fail("close");
    p = leak_ipc(0), of = key - 1;
    if (cuIpcOpenMemHandle_v2(&same, handle_of(of), 1) != 0 || same != p) truth_fail("another address");
    if (cuIpcCloseMemHandle(p) != 0) truth_fail("close");
    leak_ipc_free(p, 0);
}

#define RUN(name, size)                                                                            \
    for (int i = 0; i < 3; i++) name(size);                                                        \
    for (int i = 0; i < 2; i++) name##_free(name(size), size);

/* No event at all. */
ALONE void nothing(void) {
    if (cuMemFree_v2(0) != 0 || cuMemPoolTrimTo(pool, 0) != 0) truth_fail("free of nothing");
}

/* Seen, counted, and no more. */
ALONE void untracked(void) {
    CUgraphNode node;
    CUallocNode params = {.size = 4096};
    CUexternalMemory memory;
    CUexternalDesc desc = {.size = 4096};
    CUexternalBuffer buffer = {.size = 4096};
    CUdeviceptr p;
    if (cuGraphAddMemAllocNode(&node, NULL, NULL, 0, &params) != 0) truth_fail("graph");
    if (cuGraphAddMemFreeNode(&node, NULL, NULL, 0, params.address) != 0) truth_fail("graph");
    if (cuImportExternalMemory(&memory, &desc) != 0) truth_fail("external");
    if (cuExternalMemoryGetMappedBuffer(&p, memory, &buffer) != 0) truth_fail("external");
    if (cuMemFree_v2(p) != 0 || cuDestroyExternalMemory(memory) != 0) truth_fail("external");
    expect_ledger("gpu_untracked", 4);
    expect_ledger("gpu_free_unknown", 1); /* of the buffer */
}

static void begin(void) {
    CUcontext context;
    if (cuInit(0) != 0 || cuCtxCreate_v4(&context, NULL, 0, 0) != 0) truth_fail("context");
}

int main(int argc, char **argv) {
    int early = argc > 1 && strcmp(argv[1], "early") == 0;
    if (early) begin();
    step("ready");
    if (!early) begin();
    if (early) gpu_device = NO_DEVICE; /* made before anybody looked */
    if (cuMemPoolCreate(&pool, NULL) != 0) truth_fail("pool");
    RUN(leak_alloc, 1000)
    RUN(leak_pitch, 100 * 1024)
    RUN(leak_managed, 3000)
    RUN(leak_async, 4000)
    RUN(leak_async_ptsz, 5000)
    RUN(leak_pool, 6000)
    RUN(leak_pool_ptsz, 7000)
    RUN(leak_alloc_host, 8000)
    RUN(leak_host_alloc, 9000)
    RUN(leak_register, 10000)
    RUN(leak_array, 11008)
    RUN(leak_row, 12000)
    RUN(leak_array3d, 12960)
    RUN(leak_mipmap, MIPMAP)
    RUN(leak_ipc, 0)
    RUN(leak_ipc_v2, 0)
    RUN(leak_pool_import, 0)
    opened_again();
    nothing();
    untracked();
    if (cuMemPoolDestroy(pool) != 0) truth_fail("pool"); /* frees nothing */
    tell_gpu_truth();
    return 0;
}
