/* The fake driver's memory without an address: handles with their references, mappings, reserved addresses. */
#include "fake_state.h"

enum { GRAIN = 2 << 20 };

static struct numbers handles = {.next = 0x1000}, reserved = {.next = 0x302000000};

static CUresult reserve(CUdeviceptr *p, size_t n) {
    CUresult ready = fake_ready();
    if (ready != CU_OK) return ready;
    if (n == 0 || n % GRAIN != 0) return CU_INVALID_VALUE;
    *p = fake_take_number(&reserved, n);
    fake_add(RESERVED, FAKE_RESERVATION, *p, n);
    return CU_OK;
}
CUresult cuMemAddressReserve(CUdeviceptr *p, size_t n, size_t alignment, CUdeviceptr wanted, unsigned long long flags) {
    (void)alignment, (void)wanted, (void)flags;
    LOCKED(reserve(p, n));
}

static CUresult unreserve(CUdeviceptr p, size_t n) {
    struct record *record = fake_find(RESERVED, p), *mapping = NULL;
    if (record == NULL || record->size != n) return CU_INVALID_VALUE;
    while ((mapping = fake_each(mapping, MAPPING)) != NULL)
        if (mapping->id >= p && mapping->id < p + n) return CU_INVALID_VALUE;
    fake_drop(record);
    fake_give_number(&reserved, p, n);
    return CU_OK;
}
CUresult cuMemAddressFree(CUdeviceptr p, size_t n) { LOCKED(unreserve(p, n)); }

static CUresult create(CUhandle *handle, size_t n, const CUmemProp *prop) {
    CUresult result = fake_ready();
    if (result != CU_OK) return result;
    bool on_device = prop->location.type == CU_ON_DEVICE;
    if (n == 0 || n % GRAIN != 0 || prop->type != 1 || (on_device && !fake_is_device(prop->location.id)) ||
        (!on_device && prop->location.type != CU_ON_HOST && prop->location.type != CU_ON_NUMA_NODE))
        return CU_INVALID_VALUE;
    result = on_device ? fake_charge(prop->location.id, n) : CU_OK;
    if (result != CU_OK) return result;
    *handle = fake_take_number(&handles, 8);
    struct record *record = fake_add(HANDLE, on_device ? FAKE_VMM : FAKE_VMM_HOST, *handle, n);
    record->device = on_device ? prop->location.id : -1;
    return CU_OK;
}
CUresult cuMemCreate(CUhandle *handle, size_t n, const CUmemProp *prop, unsigned long long flags) {
    (void)flags;
    LOCKED(create(handle, n, prop));
}

/* A handle without memory of this process. */
static CUresult create_foreign(CUhandle *handle, enum fake_gpu_space space) {
    CUresult ready = fake_ready();
    if (ready != CU_OK) return ready;
    *handle = fake_take_number(&handles, 8);
    fake_add(HANDLE, space, *handle, 0);
    return CU_OK;
}
CUresult cuMulticastCreate(CUhandle *handle, const CUmulticastProp *prop) {
    (void)prop;
    LOCKED(create_foreign(handle, FAKE_OTHER));
}

/* Memory lives as long as there is either a reference or a mapping. */
static void drop_if_unused(struct record *record) {
    if (record->references > 0 || record->mappings > 0) return;
    uint64_t handle = record->id;
    fake_drop(record);
    fake_give_number(&handles, handle, 8);
}

static CUresult release(CUhandle handle) {
    CUresult refused = fake_refusal();
    if (refused != CU_OK) return refused;
    struct record *record = fake_find(HANDLE, handle);
    if (record == NULL || record->references == 0) return CU_INVALID_VALUE;
    record->references--;
    drop_if_unused(record);
    return CU_OK;
}
CUresult cuMemRelease(CUhandle handle) { LOCKED(release(handle)); }

static CUresult retain(CUhandle *handle, uint64_t address) {
    struct record *mapping = NULL;
    while ((mapping = fake_each(mapping, MAPPING)) != NULL) {
        if (address < mapping->id || address - mapping->id >= mapping->size) continue;
        *handle = mapping->of;
        fake_find(HANDLE, *handle)->references++;
        return CU_OK;
    }
    return CU_INVALID_VALUE;
}
CUresult cuMemRetainAllocationHandle(CUhandle *handle, void *address) { LOCKED(retain(handle, (uint64_t)address)); }

/* A shareable handle is the number itself; one that this process has not exported is another's memory. */
static CUresult export_handle(void *shareable, CUhandle handle) {
    if (fake_find(HANDLE, handle) == NULL) return CU_INVALID_VALUE;
    *(int *)shareable = (int)handle;
    return CU_OK;
}
CUresult cuMemExportToShareableHandle(void *shareable, CUhandle handle, unsigned type, unsigned long long flags) {
    (void)type, (void)flags;
    LOCKED(export_handle(shareable, handle));
}
static CUresult import_handle(CUhandle *handle, uint64_t os_handle) {
    struct record *record = fake_find(HANDLE, os_handle);
    if (record == NULL) return create_foreign(handle, FAKE_IPC);
    record->references++;
    *handle = record->id;
    return CU_OK;
}
CUresult cuMemImportFromShareableHandle(CUhandle *handle, void *os_handle, unsigned type) {
    (void)type;
    LOCKED(import_handle(handle, (uint64_t)os_handle));
}

static CUresult map(CUdeviceptr p, size_t n, size_t offset, CUhandle handle) {
    struct record *record = fake_find(HANDLE, handle), *other = NULL;
    if (record == NULL || record->references == 0 || n == 0 || n % GRAIN != 0) return CU_INVALID_VALUE;
    if (record->size > 0 && offset + n > record->size) return CU_INVALID_VALUE;
    bool inside = false;
    while ((other = fake_each(other, RESERVED)) != NULL) inside |= p >= other->id && p + n <= other->id + other->size;
    while ((other = fake_each(other, MAPPING)) != NULL) inside &= p + n <= other->id || p >= other->id + other->size;
    if (!inside) return CU_INVALID_VALUE;
    struct record *mapping = fake_add(MAPPING, FAKE_OTHER, p, n);
    mapping->of = handle;
    record->mappings++;
    return CU_OK;
}
CUresult cuMemMap(CUdeviceptr p, size_t n, size_t offset, CUhandle handle, unsigned long long flags) {
    (void)flags;
    LOCKED(map(p, n, offset, handle));
}

/* All mappings of the range at once; it must begin and end with one and have no hole. */
static CUresult unmap(CUdeviceptr p, size_t n) {
    CUresult refused = fake_refusal();
    if (refused != CU_OK) return refused;
    size_t covered = 0;
    struct record *mapping = NULL;
    while ((mapping = fake_each(mapping, MAPPING)) != NULL)
        if (mapping->id >= p && mapping->id + mapping->size <= p + n) covered += mapping->size;
    if (n == 0 || covered != n) return CU_INVALID_VALUE;
    while ((mapping = fake_each(mapping, MAPPING)) != NULL) {
        if (mapping->id < p || mapping->id >= p + n) continue;
        struct record *record = fake_find(HANDLE, mapping->of);
        record->mappings--;
        fake_drop(mapping);
        drop_if_unused(record);
    }
    return CU_OK;
}
CUresult cuMemUnmap(CUdeviceptr p, size_t n) { LOCKED(unmap(p, n)); }

CUresult cuMemSetAccess(CUdeviceptr p, size_t n, const CUmemAccess *access, size_t count) {
    (void)p, (void)n, (void)access, (void)count;
    return fake_ready();
}
