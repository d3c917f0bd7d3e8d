/* Memory by handle: who refers to it, who maps it, and the customs of those who use it so.
 * usage: vmm llama|nccl|spans|host|remap|import|multicast|failures|reservations */
#include "gpu.h"

enum { MIB2 = 2 << 20 };

static CUmemProp on_device(int device) { return (CUmemProp){.type = 1, .location = {CU_ON_DEVICE, device}}; }

/* `create_on(device, n)` at a site of its own. */
#define CREATES(name, space, prop)                                                                 \
    GPU_SITE(name, "cuMemCreate", "cuMemCreate", space);                                           \
    ALONE CUhandle name(size_t n) {                                                                \
        CUhandle handle;                                                                           \
        CUmemProp wanted = (prop);                                                                 \
        int result = cuMemCreate(&handle, n, &wanted, 0); gpu_took(name, result, n);               \
        return handle;                                                                             \
    }
CREATES(leak, FAKE_VMM, on_device(0))
CREATES(given_back, FAKE_VMM, on_device(0))
CREATES(on_second, FAKE_VMM, on_device(1))
CREATES(on_host, FAKE_VMM_HOST, ((CUmemProp){.type = 1, .location = {CU_ON_HOST, 0}}))
CREATES(on_node, FAKE_VMM_HOST, ((CUmemProp){.type = 1, .location = {CU_ON_NUMA_NODE, 1}}))

GPU_SITE(reserve, "cuMemAddressReserve", "cuMemAddressReserve", FAKE_RESERVATION);
ALONE CUdeviceptr reserve(size_t n) {
    CUdeviceptr p;
    int result = cuMemAddressReserve(&p, n, 0, 0, 0); gpu_took(reserve, result, n);
    return p;
}
static void unreserve(CUdeviceptr p, size_t n) { gpu_gave(reserve, cuMemAddressFree(p, n), n); }

static void must(int result) {
    if (result != 0) truth_fail("a VMM call failed that must not");
}
static void must_fail(int result) {
    if (result == 0) truth_fail("a VMM call succeeded that must not");
}
static void map(CUdeviceptr p, size_t n, CUhandle handle) {
    CUmemAccess access = {{CU_ON_DEVICE, 0}, 3};
    must(cuMemMap(p, n, 0, handle, 0));
    must(cuMemSetAccess(p, n, &access, 1));
}
/* The last hold on what came from the site goes with the call. */
#define LAST(name, n, call) gpu_gave(name, call, n)

/* A pool that grows: each handle is released as soon as it is mapped. Three pieces stay; two of another go by an unmap. */
ALONE void llama(void) {
    CUdeviceptr pool = reserve(64ull * MIB2), other = reserve(2ull * MIB2);
    for (int i = 0; i < 3; i++) {
        CUhandle handle = leak(MIB2);
        map(pool + (size_t)i * MIB2, MIB2, handle);
        must(cuMemRelease(handle));
    }
    for (int i = 0; i < 2; i++) {
        CUhandle handle = given_back(MIB2);
        map(other, MIB2, handle);
        must(cuMemRelease(handle));
        LAST(given_back, MIB2, cuMemUnmap(other, MIB2));
    }
    unreserve(other, 2ull * MIB2);
}

/* Frees what it has only the address of: retain, release, unmap, release. */
ALONE void nccl_free(CUdeviceptr p) {
    CUhandle handle;
    must(cuMemRetainAllocationHandle(&handle, (void *)p));
    must(cuMemRelease(handle));
    must(cuMemUnmap(p, 2 * MIB2));
    LAST(given_back, 2 * MIB2, cuMemRelease(handle));
    unreserve(p, 2 * MIB2);
}
ALONE void nccl(void) {
    for (int i = 0; i < 4; i++) {
        CUdeviceptr p = reserve(2 * MIB2);
        map(p, 2 * MIB2, given_back(2 * MIB2));
        nccl_free(p);
    }
    /* One that only unmaps: the reference from its creation is still there. */
    for (int i = 0; i < 2; i++) {
        CUdeviceptr p = reserve(2 * MIB2);
        map(p, 2 * MIB2, leak(2 * MIB2));
        must(cuMemUnmap(p, 2 * MIB2));
        unreserve(p, 2 * MIB2);
    }
    /* One that retains and forgets that. */
    CUdeviceptr p = reserve(2 * MIB2);
    CUhandle handle = leak(2 * MIB2);
    map(p, 2 * MIB2, handle);
    must(cuMemRetainAllocationHandle(&handle, (void *)(p + MIB2)));
    must(cuMemUnmap(p, 2 * MIB2));
    must(cuMemRelease(handle));
    unreserve(p, 2 * MIB2);
}

/* One unmap of several mappings; a handle that is mapped twice; a part of a row. */
ALONE void spans(void) {
    CUdeviceptr p = reserve(16 * MIB2), twice = reserve(2 * MIB2);
    for (size_t i = 0; i < 6; i++) {
        CUhandle handle = given_back((i % 2 + 1) * MIB2);
        map(p, (i % 2 + 1) * MIB2, handle);
        must(cuMemRelease(handle));
        p += (i % 2 + 1) * MIB2;
    }
    p -= 9 * MIB2;
    must(cuMemUnmap(p, 9 * MIB2));
    for (size_t i = 0; i < 6; i++) gave(&given_back_site, (i % 2 + 1) * MIB2);

    CUhandle handle = given_back(MIB2);
    map(twice, MIB2, handle);
    map(twice + MIB2, MIB2, handle);
    must(cuMemRelease(handle));
    must(cuMemUnmap(twice, MIB2));
    LAST(given_back, MIB2, cuMemUnmap(twice + MIB2, MIB2));
    handle = leak(MIB2);
    map(twice, MIB2, handle);
    map(twice + MIB2, MIB2, handle);
    must(cuMemRelease(handle));
    must(cuMemUnmap(twice + MIB2, MIB2));

    for (size_t i = 0; i < 4; i++) {
        handle = i < 2 ? given_back(MIB2) : leak(MIB2);
        map(p + i * MIB2, MIB2, handle);
        must(cuMemRelease(handle));
    }
    must(cuMemUnmap(p, 2 * MIB2));
    gave(&given_back_site, 2 * MIB2);
    given_back_site.frees++;
}

/* Where it lies: another device, the host, a node of the host. */
ALONE void host(void) {
    gpu_device = NO_DEVICE;
    for (int i = 0; i < 3; i++) on_host(MIB2);
    for (int i = 0; i < 2; i++) LAST(on_host, MIB2, cuMemRelease(on_host(MIB2)));
    on_node(2 * MIB2);
    gpu_device = 1;
    for (int i = 0; i < 2; i++) on_second(3 * MIB2);
    LAST(on_second, MIB2, cuMemRelease(on_second(MIB2)));
    gpu_device = 0;
    leak(MIB2);
}

/* Sleep and wake: at the same reserved address, other memory each time, and the number of its handle comes back. */
ALONE void remap(void) {
    CUdeviceptr p = reserve(4 * MIB2);
    for (int i = 0; i < 10; i++) {
        CUhandle handle = given_back(4 * MIB2);
        map(p, 4 * MIB2, handle);
        must(cuMemUnmap(p, 4 * MIB2));
        LAST(given_back, 4 * MIB2, cuMemRelease(handle));
    }
    map(p, 4 * MIB2, leak(4 * MIB2));
}

/* Another process's: of no size here. */
GPU_SITE(foreign, "cuMemImportFromShareableHandle", "cuMemImportFromShareableHandle", FAKE_IPC);
ALONE CUhandle foreign(uintptr_t number) {
    CUhandle handle;
    int result = cuMemImportFromShareableHandle(&handle, (void *)number, 1); gpu_took(foreign, result, 0);
    return handle;
}

/* One's own memory through another process's hands is one more reference; another's is none of our bytes. */
ALONE void import(void) {
    CUhandle handle = given_back(MIB2), same, other;
    CUdeviceptr p = reserve(2 * MIB2);
    int number = 0;
    must(cuMemExportToShareableHandle(&number, handle, 1, 0));
    must(cuMemImportFromShareableHandle(&same, (void *)(intptr_t)number, 1));
    must(cuMemRelease(handle));
    LAST(given_back, MIB2, cuMemRelease(same));
    handle = leak(MIB2);
    must(cuMemExportToShareableHandle(&number, handle, 1, 0));
    must(cuMemImportFromShareableHandle(&same, (void *)(intptr_t)number, 1));
    must(cuMemRelease(handle));
    other = foreign(0x777777);
    map(p, MIB2, other);
    must(cuMemRelease(other));
    LAST(foreign, 0, cuMemUnmap(p, MIB2));
    foreign(0x777778);
}

/* Given back like memory, and none; the number of the handle is memory's next. */
ALONE void multicast(void) {
    CUmulticastProp prop = {2, MIB2, 1, 0};
    CUhandle handle;
    for (int i = 0; i < 3; i++) {
        must(cuMulticastCreate(&handle, &prop));
        must(cuMemRelease(handle));
        LAST(given_back, MIB2, cuMemRelease(given_back(MIB2)));
    }
    leak(MIB2);
}

/* What fails changes nothing: everything here is as if those calls had not been. */
ALONE void failures(void) {
    CUdeviceptr p = reserve(8 * MIB2);
    CUhandle handle = leak(2 * MIB2), gone = given_back(MIB2), none;
    map(p, 2 * MIB2, handle);
    map(p + 2 * MIB2, MIB2, gone);
    must(cuMemRelease(gone));
    must_fail(cuMemRelease(gone)); /* only its mapping is left */
    must_fail(cuMemMap(p + 4 * MIB2, MIB2, 0, gone, 0));
    must_fail(cuMemMap(p, MIB2, 0, handle, 0)); /* taken */
    must_fail(cuMemUnmap(p, 4 * MIB2)); /* one hole */
    must_fail(cuMemUnmap(p, MIB2)); /* a part of one */
    must_fail(cuMemRetainAllocationHandle(&none, (void *)(p + 6 * MIB2)));
    fake_gpu_fail_next_free(CU_INVALID_HANDLE);
    must_fail(cuMemUnmap(p, 3 * MIB2));
    fake_gpu_fail_next_free(CU_INVALID_HANDLE);
    must_fail(cuMemRelease(handle));
    LAST(given_back, MIB2, cuMemUnmap(p + 2 * MIB2, MIB2));
    must(cuMemRelease(handle)); /* its mapping keeps it */
}

ALONE void reservations(void) {
    for (int i = 0; i < 3; i++) reserve(32ull << 30);
    for (int i = 0; i < 2; i++) unreserve(reserve(4 * MIB2), 4 * MIB2);
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(void); } modes[] = {
        {"llama", llama}, {"nccl", nccl}, {"spans", spans}, {"host", host}, {"remap", remap}, {"import", import},
        {"multicast", multicast}, {"failures", failures}, {"reservations", reservations},
    };
    CUcontext context;
    step("ready");
    if (cuInit(0) != 0 || cuCtxCreate_v2(&context, 0, 0) != 0) truth_fail("context");
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        if (argc != 2 || strcmp(argv[1], modes[i].name) != 0) continue;
        modes[i].run();
        tell_gpu_truth();
        return 0;
    }
    truth_fail("usage: vmm MODE");
}
