/* What the fake of PyTorch's allocator offers the tests; the names under `c10` that matter are the real ones. */
#ifndef FAKE_TORCH_H
#define FAKE_TORCH_H

#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace c10 {

/* Passed by value, in one register: the type (1: CUDA, 0: the CPU), then the index. */
struct Device { int8_t type, index; };

#ifdef OLD_TOTALS
typedef int64_t total_t;
#else
typedef std::size_t total_t;
#endif

/* Exported by libc10.so. */
void reportMemoryUsageToProfiler(void *address, int64_t bytes, total_t allocated, total_t reserved, Device device);

/* Thrown when the device has no room and nothing cached can be given back. */
struct OutOfMemoryError : std::runtime_error { using runtime_error::runtime_error; };

} // namespace c10

/* Exported by libc10_cuda.so. */
namespace fake_torch {

/* A tensor's memory on a device: of a segment, rounded up to 512 bytes. */
void *allocate(std::size_t bytes, int device);
void release(void *tensor);
/* Gives back all segments without tensors; how many. */
std::size_t empty_cache();
/* Bytes of a device's tensors, and of its segments. */
std::size_t allocated(int device);
std::size_t reserved(int device);
std::size_t block_bytes(std::size_t bytes);

} // namespace fake_torch

#endif
