/* The part of CUDA's runtime library that leaktrace follows, as far as the fixtures call it: names, types and orders of
 * arguments, written by hand from NVIDIA's documentation of the runtime API. */
#ifndef FAKE_RUNTIME_H
#define FAKE_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int cudaError_t;
enum { CUDA_OK = 0, CUDA_INVALID_VALUE = 1, CUDA_OUT_OF_MEMORY = 2, CUDA_NO_DRIVER = 35, CUDA_INVALID_DEVICE = 101 };

typedef struct { size_t width, height, depth; } cudaExtent;
typedef struct { void *ptr; size_t pitch, xsize, ysize; } cudaPitchedPtr;
/* Bits of each channel; kind 0 signed, 1 unsigned, 2 floating. */
typedef struct { int x, y, z, w, kind; } cudaChannelDesc;
typedef struct { char bytes[64]; } cudaIpcHandle;
typedef struct cudaStream_st *cudaStream_t;
typedef void *cudaPool_t, *cudaArray_t, *cudaMipmap_t;

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaMemGetInfo(size_t *left, size_t *total);
cudaError_t cudaDeviceReset(void);
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags, int *status);

cudaError_t cudaMalloc(void **p, size_t n);
cudaError_t cudaMallocManaged(void **p, size_t n, unsigned flags);
cudaError_t cudaMallocPitch(void **p, size_t *pitch, size_t width, size_t height);
cudaError_t cudaMalloc3D(cudaPitchedPtr *p, cudaExtent extent);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t n);
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaHostRegister(void *p, size_t n, unsigned flags);
cudaError_t cudaHostUnregister(void *p);
cudaError_t cudaMallocArray(cudaArray_t *array, const cudaChannelDesc *desc, size_t width, size_t height, unsigned flags);
cudaError_t cudaMalloc3DArray(cudaArray_t *array, const cudaChannelDesc *desc, cudaExtent extent, unsigned flags);
cudaError_t cudaMallocMipmappedArray(cudaMipmap_t *array, const cudaChannelDesc *desc, cudaExtent extent, unsigned levels, unsigned flags);
cudaError_t cudaFreeArray(cudaArray_t array);
cudaError_t cudaFreeMipmappedArray(cudaMipmap_t array);
cudaError_t cudaMallocAsync(void **p, size_t n, cudaStream_t stream);
cudaError_t cudaMallocAsync_ptsz(void **p, size_t n, cudaStream_t stream);
cudaError_t cudaMallocFromPoolAsync(void **p, size_t n, cudaPool_t pool, cudaStream_t stream);
cudaError_t cudaMallocFromPoolAsync_ptsz(void **p, size_t n, cudaPool_t pool, cudaStream_t stream);
cudaError_t cudaFreeAsync(void *p, cudaStream_t stream);
cudaError_t cudaFreeAsync_ptsz(void *p, cudaStream_t stream);
cudaError_t cudaDeviceGetDefaultMemPool(cudaPool_t *pool, int device);
cudaError_t cudaMemPoolCreate(cudaPool_t *pool, const void *props);
cudaError_t cudaMemPoolDestroy(cudaPool_t pool);
cudaError_t cudaMemPoolImportPointer(void **p, cudaPool_t pool, void *data);
cudaError_t cudaIpcOpenMemHandle(void **p, cudaIpcHandle handle, unsigned flags);
cudaError_t cudaIpcCloseMemHandle(void *p);

#ifdef __cplusplus
}
#endif
#endif
