/* A runtime library over the fake driver: `libcudart.so.12` for the tests, or an archive. It owns how a runtime call
 * becomes a driver call. Like the real one it is not linked with the driver: it opens `libcuda.so.1` at its first use and
 * asks cuGetProcAddress_v2 for functions by name and version; and its frames have no frame pointers.
 *
 * Built with -fvisibility=hidden, as an archive: its functions become local symbols of the program, but for those
 * marked GLOBAL. */
#define _GNU_SOURCE
#include "runtime.h"
#include "driver.h"
#include <dlfcn.h>
#include <pthread.h>

#define GLOBAL __attribute__((visibility("default")))
#ifdef SHARED
#define API GLOBAL
#else
#define API
#endif
#define THREAD static __thread __attribute__((tls_model("initial-exec")))

enum { DEVICES = 8 };

/* What is asked for: variable, name, version, flags. */
#define FUNCTIONS(F)                                                                               \
    F(init, cuInit, cuInit, 2000, 0) F(count, cuDeviceGetCount, cuDeviceGetCount, 2000, 0)                                 \
    F(retain, cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, 7000, 0)                                                 \
    F(release, cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease, 7000, 0)                                              \
    F(reset, cuDevicePrimaryCtxReset, cuDevicePrimaryCtxReset, 7000, 0)                                                    \
    F(set_current, cuCtxSetCurrent, cuCtxSetCurrent, 4000, 0) F(mem_info, cuMemGetInfo, cuMemGetInfo_v2, 3020, 0)          \
    F(alloc, cuMemAlloc, cuMemAlloc_v2, 3020, 0) F(pitch, cuMemAllocPitch, cuMemAllocPitch_v2, 3020, 0)                    \
    F(managed, cuMemAllocManaged, cuMemAllocManaged, 6000, 0) F(free_, cuMemFree, cuMemFree_v2, 3020, 0)                   \
    F(host_alloc, cuMemHostAlloc, cuMemHostAlloc, 2020, 0) F(free_host, cuMemFreeHost, cuMemFreeHost, 2000, 0)             \
    F(enlist, cuMemHostRegister, cuMemHostRegister_v2, 6050, 0) F(delist, cuMemHostUnregister, cuMemHostUnregister, 4000, 0) \
    F(array, cuArrayCreate, cuArrayCreate_v2, 3020, 0) F(array3d, cuArray3DCreate, cuArray3DCreate_v2, 3020, 0)            \
    F(free_array, cuArrayDestroy, cuArrayDestroy, 2000, 0)                                                                 \
    F(mipmap, cuMipmappedArrayCreate, cuMipmappedArrayCreate, 5000, 0)                                                     \
    F(free_mipmap, cuMipmappedArrayDestroy, cuMipmappedArrayDestroy, 5000, 0)                                              \
    F(async, cuMemAllocAsync, cuMemAllocAsync, 11020, 0) F(async_ptsz, cuMemAllocAsync, cuMemAllocAsync, 11020, 2)         \
    F(pool_async, cuMemAllocFromPoolAsync, cuMemAllocFromPoolAsync, 11020, 0)                                              \
    F(pool_async_ptsz, cuMemAllocFromPoolAsync, cuMemAllocFromPoolAsync, 11020, 2)                                         \
    F(free_async, cuMemFreeAsync, cuMemFreeAsync, 11020, 0) F(free_async_ptsz, cuMemFreeAsync, cuMemFreeAsync, 11020, 2)   \
    F(default_pool, cuDeviceGetDefaultMemPool, cuDeviceGetDefaultMemPool, 11020, 0)                                        \
    F(pool_create, cuMemPoolCreate, cuMemPoolCreate, 11020, 0) F(pool_destroy, cuMemPoolDestroy, cuMemPoolDestroy, 11020, 0) \
    F(pool_import, cuMemPoolImportPointer, cuMemPoolImportPointer, 11020, 0)                                               \
    F(ipc_open, cuIpcOpenMemHandle, cuIpcOpenMemHandle, 11000, 0) F(ipc_close, cuIpcCloseMemHandle, cuIpcCloseMemHandle, 4010, 0)

#define POINTER(variable, name, type, version, flags) static __typeof__(&type) variable;
FUNCTIONS(POINTER)

static __typeof__(&cuGetProcAddress_v2) address_of;
static pthread_once_t opened = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int state = CUDA_NO_DRIVER;
static CUcontext primary[DEVICES];
THREAD int device;      /* that the thread has chosen */
THREAD int current = -1; /* whose context it has made its own */

static void open_driver(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return;
    address_of = (__typeof__(address_of))dlsym(library, "cuGetProcAddress_v2");
    if (address_of == NULL) return;
    int missing = 0;
#define FIND(variable, name, type, version, flags) missing |= address_of(#name, (void **)&variable, version, flags, NULL);
    FUNCTIONS(FIND)
    if (missing == 0) state = init(0);
}

static cudaError_t driver(void) {
    pthread_once(&opened, open_driver);
    return state;
}

/* The thread's device has a context, and it is the thread's. */
static cudaError_t ready(void) {
    cudaError_t result = driver();
    if (result != CUDA_OK || current == device) return result;
    pthread_mutex_lock(&lock);
    if (primary[device] == NULL) result = retain(&primary[device], device);
    pthread_mutex_unlock(&lock);
    if (result == CUDA_OK) result = set_current(primary[device]);
    if (result == CUDA_OK) current = device;
    return result;
}

/* The driver's result is the runtime's for all codes that the fake driver has. */
#define CALL(expression)                                                                           \
    do {                                                                                           \
        cudaError_t is_ready = ready();                                                            \
        return is_ready != CUDA_OK ? is_ready : (expression);                                      \
    } while (0)

__attribute__((destructor)) static void release_all(void) {
    for (int each = 0; each < DEVICES; each++)
        if (primary[each] != NULL) release(each);
}

API cudaError_t cudaGetDeviceCount(int *number) {
    cudaError_t result = driver();
    return result != CUDA_OK ? result : count(number);
}
API cudaError_t cudaSetDevice(int wanted) {
    int number = 0;
    cudaError_t result = cudaGetDeviceCount(&number);
    if (result != CUDA_OK) return result;
    if (wanted < 0 || wanted >= number) return CUDA_INVALID_DEVICE;
    device = wanted;
    return ready();
}
API cudaError_t cudaGetDevice(int *number) { *number = device; return driver(); }
API cudaError_t cudaMemGetInfo(size_t *left, size_t *total) { CALL(mem_info(left, total)); }
API cudaError_t cudaDeviceReset(void) { CALL(reset(device)); }
API cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags, int *status) {
    cudaError_t result = driver();
    return result != CUDA_OK ? result : address_of(name, function, (int)version, flags, status);
}

/* Nothing of nothing, without the driver. */
API cudaError_t cudaMalloc(void **p, size_t n) {
    if (n == 0) {
        *p = NULL;
        return ready();
    }
    CALL(alloc((CUdeviceptr *)p, n));
}
API cudaError_t cudaMallocManaged(void **p, size_t n, unsigned flags) { CALL(managed((CUdeviceptr *)p, n, flags)); }
API cudaError_t cudaMallocPitch(void **p, size_t *pitch_bytes, size_t width, size_t height) { CALL(pitch((CUdeviceptr *)p, pitch_bytes, width, height, 4)); }
API cudaError_t cudaMalloc3D(cudaPitchedPtr *p, cudaExtent extent) {
    p->xsize = extent.width;
    p->ysize = extent.height;
    CALL(pitch((CUdeviceptr *)&p->ptr, &p->pitch, extent.width, extent.height * extent.depth, 4));
}
API cudaError_t cudaFree(void *p) { CALL(p == NULL ? CUDA_OK : free_((CUdeviceptr)p)); }
API cudaError_t cudaMallocHost(void **p, size_t n) { CALL(host_alloc(p, n, 0)); }
API cudaError_t cudaHostAlloc(void **p, size_t n, unsigned flags) { CALL(host_alloc(p, n, flags)); }
API cudaError_t cudaFreeHost(void *p) { CALL(p == NULL ? CUDA_OK : free_host(p)); }
API cudaError_t cudaHostRegister(void *p, size_t n, unsigned flags) { CALL(enlist(p, n, flags)); }
API cudaError_t cudaHostUnregister(void *p) { CALL(delist(p)); }

static CUarray3dDesc described(const cudaChannelDesc *desc, cudaExtent extent, unsigned flags) {
    unsigned channels = (unsigned)((desc->x > 0) + (desc->y > 0) + (desc->z > 0) + (desc->w > 0));
    unsigned wide = desc->x == 8 ? 0 : desc->x == 16 ? 1 : 2;
    unsigned format = desc->kind == 2 ? (wide == 1 ? CU_HALF : CU_FLOAT) : (desc->kind == 1 ? CU_UINT8 : CU_INT8) + wide;
    return (CUarray3dDesc){extent.width, extent.height, extent.depth, format, channels, flags};
}
API cudaError_t cudaMallocArray(cudaArray_t *p, const cudaChannelDesc *desc, size_t width, size_t height, unsigned flags) {
    CUarray3dDesc full = described(desc, (cudaExtent){width, height, 0}, flags);
    CUarrayDesc flat = {width, height, full.format, full.channels};
    if (flags != 0) CALL(array3d((CUarray *)p, &full));
    CALL(array((CUarray *)p, &flat));
}
API cudaError_t cudaMalloc3DArray(cudaArray_t *p, const cudaChannelDesc *desc, cudaExtent extent, unsigned flags) {
    CUarray3dDesc full = described(desc, extent, flags);
    CALL(array3d((CUarray *)p, &full));
}
API cudaError_t cudaMallocMipmappedArray(cudaMipmap_t *p, const cudaChannelDesc *desc, cudaExtent extent, unsigned levels, unsigned flags) {
    CUarray3dDesc full = described(desc, extent, flags);
    CALL(mipmap((CUmipmappedArray *)p, &full, levels));
}
API cudaError_t cudaFreeArray(cudaArray_t p) { CALL(free_array((CUarray)p)); }
API cudaError_t cudaFreeMipmappedArray(cudaMipmap_t p) { CALL(free_mipmap((CUmipmappedArray)p)); }

GLOBAL cudaError_t cudaMallocAsync(void **p, size_t n, cudaStream_t stream) { CALL(async((CUdeviceptr *)p, n, (CUstream)stream)); }
GLOBAL cudaError_t cudaMallocAsync_ptsz(void **p, size_t n, cudaStream_t stream) { CALL(async_ptsz((CUdeviceptr *)p, n, (CUstream)stream)); }
API cudaError_t cudaMallocFromPoolAsync(void **p, size_t n, cudaPool_t pool, cudaStream_t stream) { CALL(pool_async((CUdeviceptr *)p, n, (CUmemoryPool)pool, (CUstream)stream)); }
API cudaError_t cudaMallocFromPoolAsync_ptsz(void **p, size_t n, cudaPool_t pool, cudaStream_t stream) { CALL(pool_async_ptsz((CUdeviceptr *)p, n, (CUmemoryPool)pool, (CUstream)stream)); }
GLOBAL cudaError_t cudaFreeAsync(void *p, cudaStream_t stream) { CALL(free_async((CUdeviceptr)p, (CUstream)stream)); }
GLOBAL cudaError_t cudaFreeAsync_ptsz(void *p, cudaStream_t stream) { CALL(free_async_ptsz((CUdeviceptr)p, (CUstream)stream)); }

API cudaError_t cudaDeviceGetDefaultMemPool(cudaPool_t *pool, int of) { CALL(default_pool((CUmemoryPool *)pool, of)); }
API cudaError_t cudaMemPoolCreate(cudaPool_t *pool, const void *props) { CALL(pool_create((CUmemoryPool *)pool, props)); }
API cudaError_t cudaMemPoolDestroy(cudaPool_t pool) { CALL(pool_destroy((CUmemoryPool)pool)); }
API cudaError_t cudaMemPoolImportPointer(void **p, cudaPool_t pool, void *data) { CALL(pool_import((CUdeviceptr *)p, (CUmemoryPool)pool, data)); }
API cudaError_t cudaIpcOpenMemHandle(void **p, cudaIpcHandle handle, unsigned flags) {
    CUipcHandle same;
    __builtin_memcpy(&same, &handle, sizeof same);
    CALL(ipc_open((CUdeviceptr *)p, same, flags));
}
API cudaError_t cudaIpcCloseMemHandle(void *p) { CALL(ipc_close((CUdeviceptr)p)); }
