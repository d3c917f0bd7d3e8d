/* `libc10.so` for the tests: the one function that PyTorch reports its memory to, under its mangled name. With OLD_TOTALS
 * that of older versions. It may throw, as anything that C++ calls. */
#include "torch.h"
#include <cstdlib>

#define EXPORTED __attribute__((visibility("default"), noipa))

namespace c10 {

EXPORTED void reportMemoryUsageToProfiler(void *address, int64_t bytes, total_t, total_t, Device) {
    /* A profiler that does not like this one. */
    if (address == (void *)0x1000 && bytes > 0) throw std::runtime_error("profiler");
}

} // namespace c10
