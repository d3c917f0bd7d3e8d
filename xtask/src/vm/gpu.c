/* GPU memory for the virtual machine's check, without a GPU: the program brings the driver's functions itself, which do
 * nothing but count. What it keeps: three pieces of device memory and one by handle, which is released and mapped. */
#include <stdint.h>
#include <stdio.h>

/* Called as a library's functions are: with all their arguments. */
#define CALL __attribute__((noipa))
enum { MIB = 1 << 20 };

static volatile uint64_t next = 0x7f0000000000;
static uint64_t fresh(void) { return next += 2 * MIB; }

CALL int cuCtxCreate_v2(void **context, unsigned flags, int device) {
    (void)flags, (void)device;
    *context = (void *)(uintptr_t)fresh();
    return 0;
}
CALL int cuCtxDestroy_v2(void *context) { return context == 0; }
CALL int cuMemAlloc_v2(uint64_t *address, size_t n) {
    if (n == 0) return 1;
    *address = fresh();
    return 0;
}
CALL int cuMemFree_v2(uint64_t address) { return address % 2 != 0; }
CALL int cuMemCreate(uint64_t *handle, size_t n, const void *prop, unsigned long long flags) {
    (void)prop, (void)flags;
    *handle = fresh();
    return n == 0;
}
CALL int cuMemRelease(uint64_t handle) { return handle == 0; }
CALL int cuMemMap(uint64_t address, size_t n, size_t offset, uint64_t handle, unsigned long long flags) {
    (void)offset, (void)handle, (void)flags;
    return address == 0 || n == 0;
}
CALL int cuMemUnmap(uint64_t address, size_t n) { return address == 0 || n == 0; }

__attribute__((noinline)) static uint64_t take(void) {
    uint64_t address = 0;
    cuMemAlloc_v2(&address, MIB);
    return address;
}

__attribute__((noinline)) static void create_and_map(uint64_t address) {
    static const int on_first_device[8] = {1, 0, 1, 0};
    uint64_t handle = 0;
    cuMemCreate(&handle, 2 * MIB, on_first_device, 0);
    cuMemMap(address, 2 * MIB, 0, handle, 0);
    cuMemRelease(handle);
}

int main(void) {
    void *context = 0;
    uint64_t range = 0x7e0000000000, none = 0;
    cuCtxCreate_v2(&context, 0, 0);
    for (int i = 0; i < 4; i++) take();
    cuCtxDestroy_v2(context);
    cuCtxCreate_v2(&context, 0, 0);
    for (int i = 0; i < 3; i++) take();
    for (int i = 0; i < 5; i++) cuMemFree_v2(take());
    for (int i = 0; i < 3; i++) create_and_map(range + (uint64_t)i * 2 * MIB);
    cuMemUnmap(range, 4 * MIB);
    return cuMemAlloc_v2(&none, 0) == 1 ? 0 : 1;
}
