/* Every call of the runtime library that makes memory, each in a function of its own: three stay, two are given back.
 * usage: runtime_calls all|once|failures|no_driver|early
 * `once`: fourteen calls, which are fourteen calls of the driver inside. `early`: with a context from before the harness
 * lets it go. */
#include "gpu.h"
#include "runtime.h"

CUDA_TAKES(leak_malloc, cudaMalloc, cuMemAlloc_v2, FAKE_DEVICE, void *, cudaMalloc(p, n))
GPU_GIVES(leak_malloc, void *, cudaFree(p))
CUDA_TAKES(leak_managed, cudaMallocManaged, cuMemAllocManaged, FAKE_MANAGED, void *, cudaMallocManaged(p, n, 1))
GPU_GIVES(leak_managed, void *, cudaFree(p))
/* Rows are a multiple of 512 bytes: n / 1024 rows of 1000 bytes. */
static size_t pitch;
CUDA_TAKES(leak_pitch, cudaMallocPitch, cuMemAllocPitch_v2, FAKE_DEVICE, void *, cudaMallocPitch(p, &pitch, 1000, n / 1024))
GPU_GIVES(leak_pitch, void *, cudaFree(p))
CUDA_TAKES(leak_3d, cudaMalloc3D, cuMemAllocPitch_v2, FAKE_DEVICE, cudaPitchedPtr, cudaMalloc3D(p, (cudaExtent){600, 3, n / 1024 / 3}))
GPU_GIVES(leak_3d, cudaPitchedPtr, cudaFree(p.ptr))
CUDA_TAKES(leak_malloc_host, cudaMallocHost, cuMemHostAlloc, FAKE_PINNED, void *, cudaMallocHost(p, n))
GPU_GIVES(leak_malloc_host, void *, cudaFreeHost(p))
CUDA_TAKES(leak_host_alloc, cudaHostAlloc, cuMemHostAlloc, FAKE_PINNED, void *, cudaHostAlloc(p, n, 1))
GPU_GIVES(leak_host_alloc, void *, cudaFreeHost(p))
static char memory[16][65536], (*next_memory)[65536] = memory;
CUDA_TAKES(leak_register, cudaHostRegister, cuMemHostRegister_v2, FAKE_REGISTERED, void *, cudaHostRegister(*p = next_memory++, n, 0))
GPU_GIVES(leak_register, void *, cudaHostUnregister(p))

static const cudaChannelDesc halfs = {16, 16, 0, 0, 2}, bytes = {8, 0, 0, 0, 1}, floats = {32, 32, 32, 32, 2};
CUDA_TAKES(leak_array, cudaMallocArray, cuArrayCreate_v2, FAKE_ARRAY, cudaArray_t, cudaMallocArray(p, &halfs, n / 4 / 8, 8, 0))
GPU_GIVES(leak_array, cudaArray_t, cudaFreeArray(p))
CUDA_TAKES(leak_surface, cudaMallocArray, cuArray3DCreate_v2, FAKE_ARRAY, cudaArray_t, cudaMallocArray(p, &bytes, n, 0, 2))
GPU_GIVES(leak_surface, cudaArray_t, cudaFreeArray(p))
CUDA_TAKES(leak_array3d, cudaMalloc3DArray, cuArray3DCreate_v2, FAKE_ARRAY, cudaArray_t, cudaMalloc3DArray(p, &floats, (cudaExtent){n / 16 / 6, 3, 2}, 0))
GPU_GIVES(leak_array3d, cudaArray_t, cudaFreeArray(p))
enum { MIPMAP = 8 * 8 + 4 * 4 + 2 * 2 + 1 };
CUDA_TAKES(leak_mipmap, cudaMallocMipmappedArray, cuMipmappedArrayCreate, FAKE_ARRAY, cudaMipmap_t,
           cudaMallocMipmappedArray(p, &bytes, (cudaExtent){8, 8, 0}, 4, 0))
GPU_GIVES(leak_mipmap, cudaMipmap_t, cudaFreeMipmappedArray(p))

CUDA_TAKES(leak_async, cudaMallocAsync, cuMemAllocAsync, FAKE_DEVICE, void *, cudaMallocAsync(p, n, NULL))
GPU_GIVES(leak_async, void *, cudaFreeAsync(p, NULL))
CUDA_TAKES(leak_async_ptsz, cudaMallocAsync, cuMemAllocAsync, FAKE_DEVICE, void *, cudaMallocAsync_ptsz(p, n, NULL))
GPU_GIVES(leak_async_ptsz, void *, cudaFreeAsync_ptsz(p, NULL))
static cudaPool_t pool;
CUDA_TAKES(leak_pool, cudaMallocFromPoolAsync, cuMemAllocFromPoolAsync, FAKE_DEVICE, void *, cudaMallocFromPoolAsync(p, n, pool, NULL))
GPU_GIVES(leak_pool, void *, cudaFree(p))
CUDA_TAKES(leak_pool_ptsz, cudaMallocFromPoolAsync, cuMemAllocFromPoolAsync, FAKE_DEVICE, void *, cudaMallocFromPoolAsync_ptsz(p, n, pool, NULL))
GPU_GIVES(leak_pool_ptsz, void *, cudaFreeAsync_ptsz(p, NULL))

static cudaIpcHandle handle = {{1}};
CUDA_TAKES(leak_ipc, cudaIpcOpenMemHandle, cuIpcOpenMemHandle_v2, FAKE_IPC, void *, (handle.bytes[0]++, cudaIpcOpenMemHandle(p, handle, 1) + (int)n))
GPU_GIVES(leak_ipc, void *, cudaIpcCloseMemHandle(p))

CUDA_TAKES(leak_pool_import, cudaMemPoolImportPointer, cuMemPoolImportPointer, FAKE_IPC, void *, cudaMemPoolImportPointer(p, pool, NULL) + (int)n)
GPU_GIVES(leak_pool_import, void *, cudaFree(p))

#define RUN(name, size)                                                                            \
    for (int i = 0; i < 3; i++) name(size);                                                        \
    for (int i = 0; i < 2; i++) name##_free(name(size), size);

static void must(int result) {
    if (result != 0) truth_fail("a call of the runtime library failed");
}

/* Calls of the runtime library that the driver hears nothing of. */
ALONE void no_memory(void) {
    void *p = &p;
    must(cudaMalloc(&p, 0));
    if (p != NULL) truth_fail("something of nothing");
    must(cudaFree(NULL));
    must(cudaFreeHost(NULL));
}

static void all(void) {
    must(cudaMemPoolCreate(&pool, NULL));
    RUN(leak_malloc, 1000)
    RUN(leak_pitch, 100 * 1024)
    RUN(leak_3d, 30 * 1024)
    RUN(leak_managed, 3000)
    RUN(leak_malloc_host, 4000)
    RUN(leak_host_alloc, 5000)
    RUN(leak_register, 6000)
    RUN(leak_array, 7040)
    RUN(leak_surface, 8000)
    RUN(leak_array3d, 9600)
    RUN(leak_mipmap, MIPMAP)
    RUN(leak_async, 11000)
    RUN(leak_async_ptsz, 12000)
    RUN(leak_pool, 13000)
    RUN(leak_pool_ptsz, 14000)
    RUN(leak_ipc, 0)
    RUN(leak_pool_import, 0)
    no_memory();
    must(cudaMemPoolDestroy(pool));
}

static void once(void) {
    must(cudaDeviceGetDefaultMemPool(&pool, 0));
    leak_malloc(1 << 20), leak_pitch(100 * 1024), leak_3d(30 * 1024), leak_managed(3000), leak_malloc_host(4000);
    leak_host_alloc(5000), leak_register(6000), leak_array(7040), leak_surface(8000), leak_array3d(9600);
    leak_mipmap(MIPMAP), leak_async(11000), leak_async_ptsz(12000), leak_pool(13000);
}

enum { GIB = 1 << 30 };
#define TOO_MUCH (20ull * GIB)
#define FAILS(name, api, driver_api, expected, bytes, call)                                        \
    ALONE void name(void) {                                                                        \
        void *made = (void *)0xdeadbeef000, **p = &made; int result = (call);                      \
        gpu_failed(#api, #driver_api, result, expected, bytes);                                    \
    }
FAILS(fail_malloc, cudaMalloc, cuMemAlloc_v2, CUDA_OUT_OF_MEMORY, TOO_MUCH, cudaMalloc(p, TOO_MUCH))
FAILS(fail_managed, cudaMallocManaged, cuMemAllocManaged, CUDA_INVALID_VALUE, 4096, cudaMallocManaged(p, 4096, 77))
FAILS(fail_host, cudaMallocHost, cuMemHostAlloc, CUDA_INVALID_VALUE, 0, cudaMallocHost(p, 0))
FAILS(fail_async, cudaMallocAsync, cuMemAllocAsync, CUDA_OUT_OF_MEMORY, TOO_MUCH, cudaMallocAsync(p, TOO_MUCH, NULL))

/* Devices of 16 GiB: the harness says so. */
static void failures(void) {
    leak_malloc(3000);
    for (int i = 0; i < 4; i++) fail_malloc(), fail_managed(), fail_host(), fail_async();
    for (int i = 0; i < 2; i++) leak_malloc(3000);
    leak_malloc_free(leak_malloc(3000), 3000);
}

FAILS(fail_without, cudaMalloc, cudaMalloc, CUDA_NO_DRIVER, 1 << 20, cudaMalloc(p, 1 << 20))
FAILS(fail_host_without, cudaHostAlloc, cudaHostAlloc, CUDA_NO_DRIVER, 4096, cudaHostAlloc(p, 4096, 0))
static void no_driver(void) {
    for (int i = 0; i < 3; i++) fail_without(), fail_host_without();
    if (cudaFree(NULL) != CUDA_NO_DRIVER) truth_fail("a driver out of nowhere");
}

static void early(void) {
    gpu_device = NO_DEVICE;
    all();
    /* From now on it is known. */
    must(cudaSetDevice(1));
    gpu_device = 1;
    leak_malloc(1000);
    leak_malloc_gpu.device = -1; /* of two devices */
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(void); } modes[] = {
        {"all", all}, {"once", once}, {"failures", failures}, {"no_driver", no_driver}, {"early", early},
    };
    int devices;
    (void)cudaGetDeviceCount(&devices); /* opens the driver, if there is one */
    if (argc == 2 && strcmp(argv[1], "early") == 0) must(cudaFree(NULL));
    step("ready");
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        if (argc != 2 || strcmp(argv[1], modes[i].name) != 0) continue;
        modes[i].run();
        tell_gpu_truth();
        return 0;
    }
    truth_fail("usage: runtime_calls MODE");
}
