/* The part of CUDA's driver interface that leaktrace follows, as far as the fixtures call it: names, types and orders of
 * arguments, written by hand from NVIDIA's documentation of the driver API. What only the fake driver has begins with
 * `fake_gpu_`. */
#ifndef FAKE_DRIVER_H
#define FAKE_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr, CUhandle;
typedef struct CUctx_st *CUcontext;
typedef struct CUarray_st *CUarray;
typedef struct CUmipmap_st *CUmipmappedArray;
typedef struct CUstream_st *CUstream;
typedef struct CUpool_st *CUmemoryPool;
typedef struct CUgraph_st *CUgraph, *CUgraphNode;
typedef struct CUexternal_st *CUexternalMemory;

enum {
    CU_OK = 0, CU_INVALID_VALUE = 1, CU_OUT_OF_MEMORY = 2, CU_NOT_INITIALISED = 3, CU_INVALID_DEVICE = 101,
    CU_INVALID_CONTEXT = 201, CU_INVALID_HANDLE = 400, CU_NOT_FOUND = 500, CU_ALREADY_REGISTERED = 712, CU_NOT_REGISTERED = 713
};

typedef struct { size_t width, height; unsigned format, channels; } CUarrayDesc;
typedef struct { size_t width, height, depth; unsigned format, channels, flags; } CUarray3dDesc;
enum { CU_UINT8 = 1, CU_UINT16 = 2, CU_UINT32 = 3, CU_INT8 = 8, CU_INT16 = 9, CU_INT32 = 10, CU_HALF = 0x10, CU_FLOAT = 0x20 };

typedef struct { unsigned type; int id; } CUlocation;
enum { CU_ON_DEVICE = 1, CU_ON_HOST = 2, CU_ON_NUMA_NODE = 3 };
typedef struct {
    unsigned type, handle_types;
    CUlocation location;
    void *os_attributes;
    unsigned char flags[8];
} CUmemProp;
typedef struct { CUlocation location; unsigned flags; } CUmemAccess;
typedef struct { char bytes[64]; } CUipcHandle;
typedef struct { unsigned type, handle_types; CUlocation location; void *os; unsigned char rest[64]; } CUpoolProps;
typedef struct { unsigned devices; size_t size; unsigned long long handle_types, flags; } CUmulticastProp;
/* Of a graph's node: the address is written into it. */
typedef struct { CUpoolProps pool; const CUmemAccess *access; size_t count, size; CUdeviceptr address; } CUallocNode;
typedef struct { unsigned type; void *handle[2]; unsigned long long size; unsigned flags, rest[16]; } CUexternalDesc;
typedef struct { unsigned long long offset, size; unsigned flags, rest[16]; } CUexternalBuffer;

CUresult cuInit(unsigned flags);
CUresult cuDriverGetVersion(int *version);
CUresult cuDeviceGetCount(int *count);
CUresult cuDeviceGet(CUdevice *device, int ordinal);
CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device);
CUresult cuMemGetInfo_v2(size_t *left, size_t *total);
CUresult cuGetProcAddress(const char *name, void **function, int version, uint64_t flags);
CUresult cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status);

CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device);
CUresult cuCtxCreate_v3(CUcontext *context, void *affinity, int count, unsigned flags, CUdevice device);
CUresult cuCtxCreate_v4(CUcontext *context, void *params, unsigned flags, CUdevice device);
CUresult cuCtxDestroy(CUcontext context);
CUresult cuCtxDestroy_v2(CUcontext context);
CUresult cuCtxSetCurrent(CUcontext context);
CUresult cuCtxGetCurrent(CUcontext *context);
CUresult cuCtxPushCurrent_v2(CUcontext context);
CUresult cuCtxPopCurrent_v2(CUcontext *context);
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device);
CUresult cuDevicePrimaryCtxRelease(CUdevice device);
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device);
CUresult cuDevicePrimaryCtxReset(CUdevice device);
CUresult cuDevicePrimaryCtxReset_v2(CUdevice device);

CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t n);
CUresult cuMemAllocPitch_v2(CUdeviceptr *p, size_t *pitch, size_t width, size_t height, unsigned element);
CUresult cuMemAllocManaged(CUdeviceptr *p, size_t n, unsigned flags);
CUresult cuMemAllocAsync(CUdeviceptr *p, size_t n, CUstream stream);
CUresult cuMemAllocAsync_ptsz(CUdeviceptr *p, size_t n, CUstream stream);
CUresult cuMemAllocFromPoolAsync(CUdeviceptr *p, size_t n, CUmemoryPool pool, CUstream stream);
CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *p, size_t n, CUmemoryPool pool, CUstream stream);
CUresult cuMemFree_v2(CUdeviceptr p);
CUresult cuMemFreeAsync(CUdeviceptr p, CUstream stream);
CUresult cuMemFreeAsync_ptsz(CUdeviceptr p, CUstream stream);
CUresult cuMemAllocHost_v2(void **p, size_t n);
CUresult cuMemHostAlloc(void **p, size_t n, unsigned flags);
CUresult cuMemFreeHost(void *p);
CUresult cuMemHostRegister_v2(void *p, size_t n, unsigned flags);
CUresult cuMemHostUnregister(void *p);
CUresult cuArrayCreate_v2(CUarray *array, const CUarrayDesc *desc);
CUresult cuArray3DCreate_v2(CUarray *array, const CUarray3dDesc *desc);
CUresult cuArrayDestroy(CUarray array);
CUresult cuMipmappedArrayCreate(CUmipmappedArray *array, const CUarray3dDesc *desc, unsigned levels);
CUresult cuMipmappedArrayDestroy(CUmipmappedArray array);
CUresult cuIpcOpenMemHandle(CUdeviceptr *p, CUipcHandle handle, unsigned flags);
CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *p, CUipcHandle handle, unsigned flags);
CUresult cuIpcCloseMemHandle(CUdeviceptr p);
CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device);
CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUpoolProps *props);
CUresult cuMemPoolDestroy(CUmemoryPool pool);
CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t keep);
CUresult cuMemPoolImportPointer(CUdeviceptr *p, CUmemoryPool pool, void *data);

CUresult cuMemAddressReserve(CUdeviceptr *p, size_t n, size_t alignment, CUdeviceptr wanted, unsigned long long flags);
CUresult cuMemAddressFree(CUdeviceptr p, size_t n);
CUresult cuMemCreate(CUhandle *handle, size_t n, const CUmemProp *prop, unsigned long long flags);
CUresult cuMemRelease(CUhandle handle);
CUresult cuMemRetainAllocationHandle(CUhandle *handle, void *address);
CUresult cuMemExportToShareableHandle(void *shareable, CUhandle handle, unsigned type, unsigned long long flags);
CUresult cuMemImportFromShareableHandle(CUhandle *handle, void *os_handle, unsigned type);
CUresult cuMemMap(CUdeviceptr p, size_t n, size_t offset, CUhandle handle, unsigned long long flags);
CUresult cuMemUnmap(CUdeviceptr p, size_t n);
CUresult cuMemSetAccess(CUdeviceptr p, size_t n, const CUmemAccess *access, size_t count);
CUresult cuMulticastCreate(CUhandle *handle, const CUmulticastProp *prop);

CUresult cuGraphAddMemAllocNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, CUallocNode *params);
CUresult cuGraphAddMemFreeNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, CUdeviceptr p);
CUresult cuImportExternalMemory(CUexternalMemory *memory, const CUexternalDesc *desc);
CUresult cuExternalMemoryGetMappedBuffer(CUdeviceptr *p, CUexternalMemory memory, const CUexternalBuffer *buffer);
CUresult cuDestroyExternalMemory(CUexternalMemory memory);

/* What the fake driver holds, in the words of leaktrace's reports. */
enum fake_gpu_space {
    FAKE_DEVICE, FAKE_MANAGED, FAKE_PINNED, FAKE_REGISTERED, FAKE_ARRAY, FAKE_VMM, FAKE_VMM_HOST, FAKE_IPC, FAKE_RESERVATION,
    FAKE_OTHER, FAKE_SPACES
};
void fake_gpu_count(enum fake_gpu_space space, uint64_t *blocks, uint64_t *bytes);
/* The calling thread's next call that takes something back returns `code` and does nothing. */
void fake_gpu_fail_next_free(CUresult code);

#ifdef __cplusplus
}
#endif
#endif
