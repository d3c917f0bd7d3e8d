/* A driver without a GPU: `libcuda.so.1` for the tests. This half owns devices, contexts and what has an address or a
 * handle of its own; memory that is mapped (VMM) is fake_vmm.c's. It calls no allocator: its tables are static.
 *
 * FAKE_GPU_DEVICES (default 2) and FAKE_GPU_BYTES (memory of each, default 64 GiB) say what there is. */
#define _GNU_SOURCE
#include "fake_state.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* No allocation of a block of thread-local memory when a thread first calls. */
#define THREAD static __thread __attribute__((tls_model("initial-exec")))

enum { RECORDS = 1 << 16, GRAIN = 512 };

pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;
static struct record records[RECORDS];
static uint32_t record_count, spare[RECORDS], spare_count;

static struct { size_t limit, used; struct numbers addresses; struct CUctx_st *primary; } devices[DEVICES];
static struct CUctx_st contexts[CONTEXTS];
static int context_count, device_count;
static pid_t owner;
static struct numbers handles = {.next = 0x560000000000}, foreign = {.next = 0x7e0000000000};

THREAD CUcontext stack[DEPTH];
THREAD int depth; /* of `stack`: how many are on it */
THREAD CUresult refusal;

/* -- the table */

uint64_t fake_take_number(struct numbers *numbers, size_t size) {
    for (size_t at = numbers->count; at-- > 0;) {
        if (numbers->back[at].size != size) continue;
        uint64_t number = numbers->back[at].number;
        memmove(&numbers->back[at], &numbers->back[at + 1], (--numbers->count - at) * sizeof numbers->back[0]);
        return number;
    }
    uint64_t number = numbers->next;
    numbers->next += size;
    return number;
}

void fake_give_number(struct numbers *numbers, uint64_t number, size_t size) {
    if (numbers->count == sizeof numbers->back / sizeof numbers->back[0]) return;
    numbers->back[numbers->count].number = number;
    numbers->back[numbers->count++].size = size;
}

struct record *fake_add(enum kind kind, enum fake_gpu_space space, uint64_t id, size_t size) {
    if (spare_count == 0 && record_count == RECORDS) abort();
    struct record *record = &records[spare_count > 0 ? spare[--spare_count] : record_count++];
    *record = (struct record){.kind = kind, .space = space, .id = id, .size = size, .device = -1, .references = 1};
    return record;
}

struct record *fake_each(struct record *after, enum kind kind) {
    for (struct record *record = after ? after + 1 : records; record < records + record_count; record++)
        if (record->kind == kind) return record;
    return NULL;
}

struct record *fake_find(enum kind kind, uint64_t id) {
    struct record *record = NULL;
    while ((record = fake_each(record, kind)) != NULL && record->id != id) {}
    return record;
}

static size_t rounded(size_t size) { return (size + GRAIN - 1) / GRAIN * GRAIN; }

void fake_drop(struct record *record) {
    fake_uncharge(record->device, record->size);
    switch (record->kind) {
    case MEMORY:
        if (record->device >= 0) fake_give_number(&devices[record->device].addresses, record->id, rounded(record->size));
        else fake_give_number(&foreign, record->id, 1 << 21);
        break;
    case HOST: munmap((void *)record->id, record->size); break;
    case ARRAY: case MIPMAP: case POOL: case EXTERNAL: fake_give_number(&handles, record->id, 0x40); break;
    case IPC: fake_give_number(&foreign, record->id, 1 << 21); break;
    default: break;
    }
    record->kind = UNUSED;
    spare[spare_count++] = (uint32_t)(record - records);
}

CUresult fake_charge(int device, size_t size) {
    if (size > devices[device].limit - devices[device].used) return CU_OUT_OF_MEMORY;
    devices[device].used += size;
    return CU_OK;
}

void fake_uncharge(int device, size_t size) {
    if (device >= 0) devices[device].used -= size;
}

void fake_gpu_count(enum fake_gpu_space space, uint64_t *blocks, uint64_t *bytes) {
    *blocks = *bytes = 0;
    pthread_mutex_lock(&fake_lock);
    for (struct record *record = records; record < records + record_count; record++) {
        if (record->kind == UNUSED || record->space != space) continue;
        *blocks += 1;
        *bytes += space == FAKE_IPC ? 0 : record->size;
    }
    pthread_mutex_unlock(&fake_lock);
}

void fake_gpu_fail_next_free(CUresult code) { refusal = code; }

CUresult fake_refusal(void) {
    CUresult code = refusal;
    refusal = CU_OK;
    return code;
}

/* -- the driver and its devices */

static uint64_t variable(const char *name, uint64_t otherwise) {
    const char *value = getenv(name);
    return value ? strtoull(value, NULL, 0) : otherwise;
}

CUresult cuInit(unsigned flags) {
    if (flags != 0) return CU_INVALID_VALUE;
    pthread_mutex_lock(&fake_lock);
    if (owner == 0) {
        owner = getpid();
        device_count = (int)variable("FAKE_GPU_DEVICES", 2);
        for (int device = 0; device < DEVICES; device++) {
            devices[device].limit = variable("FAKE_GPU_BYTES", 64ull << 30);
            devices[device].addresses.next = 0xa00000000 + (uint64_t)device * 0x100000000000;
        }
    }
    CUresult result = fake_ready();
    pthread_mutex_unlock(&fake_lock);
    return result;
}

/* What a parent has begun does not go on in its child. */
CUresult fake_ready(void) { return owner == getpid() ? CU_OK : CU_NOT_INITIALISED; }
bool fake_is_device(int device) { return device >= 0 && device < device_count; }

CUresult cuDriverGetVersion(int *version) { *version = 13000; return CU_OK; }
CUresult cuDeviceGetCount(int *count) { *count = device_count; return fake_ready(); }
CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    if (!fake_is_device(ordinal)) return CU_INVALID_DEVICE;
    *device = ordinal;
    return CU_OK;
}
CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    if (!fake_is_device(device)) return CU_INVALID_DEVICE;
    *bytes = devices[device].limit;
    return CU_OK;
}

/* -- contexts */

CUresult fake_context(CUcontext *context) {
    CUresult ready = fake_ready();
    if (ready != CU_OK) return ready;
    *context = depth > 0 ? stack[depth - 1] : NULL;
    return *context != NULL && (*context)->alive ? CU_OK : CU_INVALID_CONTEXT;
}

CUresult cuMemGetInfo_v2(size_t *left, size_t *total) {
    CUcontext context;
    CUresult result = fake_context(&context);
    if (result != CU_OK) return result;
    *total = devices[context->device].limit;
    *left = *total - devices[context->device].used;
    return CU_OK;
}

static struct CUctx_st *new_context(int device, bool primary) {
    struct CUctx_st *context = NULL;
    for (int at = 0; at < context_count && context == NULL; at++)
        if (!contexts[at].alive && !contexts[at].primary) context = &contexts[at];
    if (context == NULL) {
        if (context_count == CONTEXTS) abort();
        context = &contexts[context_count++];
    }
    *context = (struct CUctx_st){.device = device, .alive = true, .primary = primary};
    return context;
}

/* What goes with a context, whoever has made it. */
static void free_with(CUcontext context) {
    for (struct record *record = records; record < records + record_count; record++)
        if (record->kind != UNUSED && record->context == context) fake_drop(record);
}

static CUresult create(CUcontext *context, CUdevice device) {
    CUresult ready = fake_ready();
    if (ready != CU_OK) return ready;
    if (!fake_is_device(device)) return CU_INVALID_DEVICE;
    if (depth == DEPTH) return CU_INVALID_VALUE;
    *context = stack[depth++] = new_context(device, false);
    return CU_OK;
}
CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device) { (void)flags; LOCKED(create(context, device)); }
CUresult cuCtxCreate_v3(CUcontext *context, void *affinity, int count, unsigned flags, CUdevice device) {
    (void)affinity, (void)count, (void)flags;
    LOCKED(create(context, device));
}
CUresult cuCtxCreate_v4(CUcontext *context, void *params, unsigned flags, CUdevice device) {
    (void)params, (void)flags;
    LOCKED(create(context, device));
}

static CUresult destroy(CUcontext context) {
    CUresult refused = fake_refusal();
    if (refused != CU_OK) return refused;
    if (context == NULL || !context->alive || context->primary) return CU_INVALID_CONTEXT;
    free_with(context);
    context->alive = false;
    if (depth > 0 && stack[depth - 1] == context) depth--;
    return CU_OK;
}
CUresult cuCtxDestroy(CUcontext context) { LOCKED(destroy(context)); }
CUresult cuCtxDestroy_v2(CUcontext context) { LOCKED(destroy(context)); }

CUresult cuCtxSetCurrent(CUcontext context) {
    if (context == NULL) {
        if (depth > 0) depth--;
        return CU_OK;
    }
    if (!context->alive) return CU_INVALID_CONTEXT;
    if (depth == 0) depth = 1;
    stack[depth - 1] = context;
    return CU_OK;
}
CUresult cuCtxGetCurrent(CUcontext *context) {
    *context = depth > 0 ? stack[depth - 1] : NULL;
    return CU_OK;
}
CUresult cuCtxPushCurrent_v2(CUcontext context) {
    if (context == NULL || !context->alive || depth == DEPTH) return CU_INVALID_CONTEXT;
    stack[depth++] = context;
    return CU_OK;
}
CUresult cuCtxPopCurrent_v2(CUcontext *context) {
    if (depth == 0) return CU_INVALID_CONTEXT;
    depth--;
    if (context != NULL) *context = stack[depth];
    return CU_OK;
}

static CUresult retain(CUcontext *context, CUdevice device) {
    CUresult ready = fake_ready();
    if (ready != CU_OK) return ready;
    if (!fake_is_device(device)) return CU_INVALID_DEVICE;
    if (devices[device].primary == NULL) devices[device].primary = new_context(device, true);
    *context = devices[device].primary;
    (*context)->alive = true;
    (*context)->references++;
    return CU_OK;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) { LOCKED(retain(context, device)); }

static CUresult release(CUdevice device) {
    if (!fake_is_device(device)) return CU_INVALID_DEVICE;
    CUcontext primary = devices[device].primary;
    if (primary == NULL || primary->references == 0) return CU_INVALID_CONTEXT;
    if (--primary->references > 0) return CU_OK;
    free_with(primary);
    primary->alive = false;
    return CU_OK;
}
CUresult cuDevicePrimaryCtxRelease(CUdevice device) { LOCKED(release(device)); }
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) { LOCKED(release(device)); }

/* Whoever has retained it keeps that: "resetting the primary context does not release it". */
static CUresult reset(CUdevice device) {
    if (!fake_is_device(device)) return CU_INVALID_DEVICE;
    if (devices[device].primary != NULL) free_with(devices[device].primary);
    return CU_OK;
}
CUresult cuDevicePrimaryCtxReset(CUdevice device) { LOCKED(reset(device)); }
CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) { LOCKED(reset(device)); }

/* -- memory with an address */

static CUresult allocate(CUdeviceptr *p, size_t n, enum fake_gpu_space space, bool with_context) {
    CUcontext context;
    CUresult result = fake_context(&context);
    if (result != CU_OK) return result;
    if (n == 0) return CU_INVALID_VALUE;
    int device = context->device;
    result = fake_charge(device, n);
    if (result != CU_OK) return result;
    *p = fake_take_number(&devices[device].addresses, rounded(n));
    struct record *record = fake_add(MEMORY, space, *p, n);
    record->device = device;
    record->context = with_context ? context : NULL;
    return CU_OK;
}

CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t n) { LOCKED(allocate(p, n, FAKE_DEVICE, true)); }
CUresult cuMemAllocManaged(CUdeviceptr *p, size_t n, unsigned flags) {
    if (flags != 1 && flags != 2) return CU_INVALID_VALUE;
    LOCKED(allocate(p, n, FAKE_MANAGED, true));
}
CUresult cuMemAllocPitch_v2(CUdeviceptr *p, size_t *pitch, size_t width, size_t height, unsigned element) {
    if (width == 0 || height == 0 || (element != 4 && element != 8 && element != 16)) return CU_INVALID_VALUE;
    *pitch = rounded(width);
    LOCKED(allocate(p, *pitch * height, FAKE_DEVICE, true));
}

static CUresult from_pool(CUdeviceptr *p, size_t n, CUmemoryPool pool) {
    if (fake_find(POOL, (uint64_t)pool) == NULL) return CU_INVALID_VALUE;
    return allocate(p, n, FAKE_DEVICE, false);
}
CUresult cuMemAllocAsync(CUdeviceptr *p, size_t n, CUstream stream) { (void)stream; LOCKED(allocate(p, n, FAKE_DEVICE, false)); }
CUresult cuMemAllocAsync_ptsz(CUdeviceptr *p, size_t n, CUstream stream) { (void)stream; LOCKED(allocate(p, n, FAKE_DEVICE, false)); }
CUresult cuMemAllocFromPoolAsync(CUdeviceptr *p, size_t n, CUmemoryPool pool, CUstream stream) { (void)stream; LOCKED(from_pool(p, n, pool)); }
CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *p, size_t n, CUmemoryPool pool, CUstream stream) { (void)stream; LOCKED(from_pool(p, n, pool)); }

static CUresult take_back(enum kind kind, uint64_t id, CUresult unknown) {
    CUresult result = fake_refusal();
    if (result == CU_OK) result = fake_ready();
    if (result != CU_OK) return result;
    struct record *record = fake_find(kind, id);
    if (record == NULL) return unknown;
    if (--record->references == 0) fake_drop(record);
    return CU_OK;
}
CUresult cuMemFree_v2(CUdeviceptr p) {
    if (p == 0) return CU_OK;
    LOCKED(take_back(MEMORY, p, CU_INVALID_VALUE));
}
CUresult cuMemFreeAsync(CUdeviceptr p, CUstream stream) { (void)stream; LOCKED(take_back(MEMORY, p, CU_INVALID_VALUE)); }
CUresult cuMemFreeAsync_ptsz(CUdeviceptr p, CUstream stream) { (void)stream; LOCKED(take_back(MEMORY, p, CU_INVALID_VALUE)); }

/* -- the host's memory */

static CUresult pin(void **p, size_t n) {
    CUcontext context;
    CUresult result = fake_context(&context);
    if (result != CU_OK) return result;
    if (n == 0) return CU_INVALID_VALUE;
    void *memory = n > 1ull << 40 ? MAP_FAILED : mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return CU_OUT_OF_MEMORY;
    *p = memory;
    fake_add(HOST, FAKE_PINNED, (uint64_t)memory, n)->context = context;
    return CU_OK;
}
CUresult cuMemAllocHost_v2(void **p, size_t n) { LOCKED(pin(p, n)); }
CUresult cuMemHostAlloc(void **p, size_t n, unsigned flags) { (void)flags; LOCKED(pin(p, n)); }
CUresult cuMemFreeHost(void *p) { LOCKED(take_back(HOST, (uint64_t)p, CU_INVALID_VALUE)); }

static CUresult enlist(void *p, size_t n) {
    CUcontext context;
    CUresult result = fake_context(&context);
    if (result != CU_OK) return result;
    if (p == NULL || n == 0) return CU_INVALID_VALUE;
    if (fake_find(REGISTERED, (uint64_t)p) != NULL) return CU_ALREADY_REGISTERED;
    fake_add(REGISTERED, FAKE_REGISTERED, (uint64_t)p, n);
    return CU_OK;
}
CUresult cuMemHostRegister_v2(void *p, size_t n, unsigned flags) { (void)flags; LOCKED(enlist(p, n)); }
CUresult cuMemHostUnregister(void *p) { LOCKED(take_back(REGISTERED, (uint64_t)p, CU_NOT_REGISTERED)); }

/* -- arrays */

static size_t format_size(unsigned format) {
    switch (format) {
    case CU_UINT8: case CU_INT8: return 1;
    case CU_UINT16: case CU_INT16: case CU_HALF: return 2;
    case CU_UINT32: case CU_INT32: case CU_FLOAT: return 4;
    default: return 0;
    }
}
static size_t at_least_one(size_t n) { return n > 0 ? n : 1; }

static CUresult new_array(uint64_t *array, enum kind kind, const CUarray3dDesc *desc, unsigned levels) {
    CUcontext context;
    CUresult result = fake_context(&context);
    if (result != CU_OK) return result;
    size_t element = format_size(desc->format) * desc->channels, size = 0;
    if (desc->width == 0 || element == 0 || levels == 0) return CU_INVALID_VALUE;
    size_t width = desc->width, height = desc->height, deep = desc->depth;
    for (unsigned level = 0; level < levels; level++) {
        size += width * at_least_one(height) * at_least_one(deep) * element;
        if (width == 1 && height <= 1 && deep <= 1) break;
        width = at_least_one(width / 2), height /= 2, deep /= 2;
    }
    result = fake_charge(context->device, size);
    if (result != CU_OK) return result;
    *array = fake_take_number(&handles, 0x40);
    struct record *record = fake_add(kind, FAKE_ARRAY, *array, size);
    record->device = context->device;
    record->context = context;
    return CU_OK;
}
CUresult cuArrayCreate_v2(CUarray *array, const CUarrayDesc *desc) {
    CUarray3dDesc flat = {desc->width, desc->height, 0, desc->format, desc->channels, 0};
    LOCKED(new_array((uint64_t *)array, ARRAY, &flat, 1));
}
CUresult cuArray3DCreate_v2(CUarray *array, const CUarray3dDesc *desc) { LOCKED(new_array((uint64_t *)array, ARRAY, desc, 1)); }
CUresult cuMipmappedArrayCreate(CUmipmappedArray *array, const CUarray3dDesc *desc, unsigned levels) {
    LOCKED(new_array((uint64_t *)array, MIPMAP, desc, levels));
}
CUresult cuArrayDestroy(CUarray array) { LOCKED(take_back(ARRAY, (uint64_t)array, CU_INVALID_HANDLE)); }
CUresult cuMipmappedArrayDestroy(CUmipmappedArray array) { LOCKED(take_back(MIPMAP, (uint64_t)array, CU_INVALID_HANDLE)); }

/* -- other processes' memory, pools */

static CUresult open_foreign(CUdeviceptr *p, const CUipcHandle *handle) {
    CUcontext context;
    CUresult result = fake_context(&context);
    if (result != CU_OK) return result;
    uint64_t key;
    memcpy(&key, handle->bytes, sizeof key);
    if (key == 0) return CU_INVALID_HANDLE;
    struct record *record = NULL;
    while ((record = fake_each(record, IPC)) != NULL && record->of != key) {}
    if (record != NULL) {
        record->references++;
    } else {
        record = fake_add(IPC, FAKE_IPC, fake_take_number(&foreign, 1 << 21), 1 << 21);
        record->of = key;
    }
    *p = record->id;
    return CU_OK;
}
CUresult cuIpcOpenMemHandle(CUdeviceptr *p, CUipcHandle handle, unsigned flags) { (void)flags; LOCKED(open_foreign(p, &handle)); }
CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *p, CUipcHandle handle, unsigned flags) { (void)flags; LOCKED(open_foreign(p, &handle)); }
CUresult cuIpcCloseMemHandle(CUdeviceptr p) { LOCKED(take_back(IPC, p, CU_INVALID_VALUE)); }

static CUresult new_object(uint64_t *object, enum kind kind) {
    CUresult ready = fake_ready();
    if (ready != CU_OK) return ready;
    *object = fake_take_number(&handles, 0x40);
    fake_add(kind, FAKE_OTHER, *object, 0);
    return CU_OK;
}
CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUpoolProps *props) { (void)props; LOCKED(new_object((uint64_t *)pool, POOL)); }
/* What was allocated from it stays. */
CUresult cuMemPoolDestroy(CUmemoryPool pool) { LOCKED(take_back(POOL, (uint64_t)pool, CU_INVALID_VALUE)); }
CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t keep) { (void)pool, (void)keep; return fake_ready(); }

static CUresult default_pool(CUmemoryPool *pool, CUdevice device) {
    static uint64_t pools[DEVICES];
    if (!fake_is_device(device)) return CU_INVALID_DEVICE;
    CUresult result = pools[device] ? CU_OK : new_object(&pools[device], POOL);
    *pool = (CUmemoryPool)pools[device];
    return result;
}
CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device) { LOCKED(default_pool(pool, device)); }

/* An address of another process's memory, which cuMemFree_v2 takes back. */
static CUresult new_foreign_address(CUdeviceptr *p, enum fake_gpu_space space) {
    CUresult ready = fake_ready();
    if (ready != CU_OK) return ready;
    *p = fake_take_number(&foreign, 1 << 21);
    fake_add(MEMORY, space, *p, 0);
    return CU_OK;
}
CUresult cuMemPoolImportPointer(CUdeviceptr *p, CUmemoryPool pool, void *data) { (void)pool, (void)data; LOCKED(new_foreign_address(p, FAKE_IPC)); }

/* -- what leaktrace does not follow */

CUresult cuGraphAddMemAllocNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, CUallocNode *params) {
    (void)graph, (void)after, (void)count;
    *node = (CUgraphNode)params;
    params->address = 0x7d0000000000;
    return CU_OK;
}
CUresult cuGraphAddMemFreeNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, CUdeviceptr p) {
    (void)graph, (void)after, (void)count, (void)p;
    *node = (CUgraphNode)node;
    return CU_OK;
}
CUresult cuImportExternalMemory(CUexternalMemory *memory, const CUexternalDesc *desc) { (void)desc; LOCKED(new_object((uint64_t *)memory, EXTERNAL)); }
CUresult cuExternalMemoryGetMappedBuffer(CUdeviceptr *p, CUexternalMemory memory, const CUexternalBuffer *buffer) {
    (void)memory, (void)buffer;
    LOCKED(new_foreign_address(p, FAKE_OTHER));
}
CUresult cuDestroyExternalMemory(CUexternalMemory memory) { LOCKED(take_back(EXTERNAL, (uint64_t)memory, CU_INVALID_HANDLE)); }

/* -- names to functions */

/* By a name without its version, and the version from which on it is this function. Later rows win. */
static const struct { const char *name; int since; void *function, *per_thread; } functions[] = {
#define ROW(name, since, function) {name, since, (void *)function, (void *)function}
#define TWIN(name, since) {#name, since, (void *)name, (void *)name##_ptsz}
    ROW("cuInit", 2000, cuInit), ROW("cuDriverGetVersion", 2020, cuDriverGetVersion),
    ROW("cuDeviceGetCount", 2000, cuDeviceGetCount), ROW("cuDeviceGet", 2000, cuDeviceGet),
    ROW("cuDeviceTotalMem", 3020, cuDeviceTotalMem_v2), ROW("cuMemGetInfo", 3020, cuMemGetInfo_v2),
    ROW("cuGetProcAddress", 11030, cuGetProcAddress), ROW("cuGetProcAddress", 12000, cuGetProcAddress_v2),
    ROW("cuCtxCreate", 3020, cuCtxCreate_v2), ROW("cuCtxCreate", 11040, cuCtxCreate_v3), ROW("cuCtxCreate", 12050, cuCtxCreate_v4),
    ROW("cuCtxDestroy", 2000, cuCtxDestroy), ROW("cuCtxDestroy", 4000, cuCtxDestroy_v2),
    ROW("cuCtxSetCurrent", 4000, cuCtxSetCurrent), ROW("cuCtxGetCurrent", 4000, cuCtxGetCurrent),
    ROW("cuCtxPushCurrent", 4000, cuCtxPushCurrent_v2), ROW("cuCtxPopCurrent", 4000, cuCtxPopCurrent_v2),
    ROW("cuDevicePrimaryCtxRetain", 7000, cuDevicePrimaryCtxRetain),
    ROW("cuDevicePrimaryCtxRelease", 7000, cuDevicePrimaryCtxRelease), ROW("cuDevicePrimaryCtxRelease", 11000, cuDevicePrimaryCtxRelease_v2),
    ROW("cuDevicePrimaryCtxReset", 7000, cuDevicePrimaryCtxReset), ROW("cuDevicePrimaryCtxReset", 11000, cuDevicePrimaryCtxReset_v2),
    ROW("cuMemAlloc", 3020, cuMemAlloc_v2), ROW("cuMemAllocPitch", 3020, cuMemAllocPitch_v2),
    ROW("cuMemAllocManaged", 6000, cuMemAllocManaged), ROW("cuMemFree", 3020, cuMemFree_v2),
    TWIN(cuMemAllocAsync, 11020), TWIN(cuMemAllocFromPoolAsync, 11020), TWIN(cuMemFreeAsync, 11020),
    ROW("cuMemAllocHost", 3020, cuMemAllocHost_v2), ROW("cuMemHostAlloc", 2020, cuMemHostAlloc), ROW("cuMemFreeHost", 2000, cuMemFreeHost),
    ROW("cuMemHostRegister", 6050, cuMemHostRegister_v2), ROW("cuMemHostUnregister", 4000, cuMemHostUnregister),
    ROW("cuArrayCreate", 3020, cuArrayCreate_v2), ROW("cuArray3DCreate", 3020, cuArray3DCreate_v2), ROW("cuArrayDestroy", 2000, cuArrayDestroy),
    ROW("cuMipmappedArrayCreate", 5000, cuMipmappedArrayCreate), ROW("cuMipmappedArrayDestroy", 5000, cuMipmappedArrayDestroy),
    ROW("cuIpcOpenMemHandle", 4010, cuIpcOpenMemHandle), ROW("cuIpcOpenMemHandle", 11000, cuIpcOpenMemHandle_v2),
    ROW("cuIpcCloseMemHandle", 4010, cuIpcCloseMemHandle), ROW("cuDeviceGetDefaultMemPool", 11020, cuDeviceGetDefaultMemPool),
    ROW("cuMemPoolCreate", 11020, cuMemPoolCreate), ROW("cuMemPoolDestroy", 11020, cuMemPoolDestroy),
    ROW("cuMemPoolTrimTo", 11020, cuMemPoolTrimTo), ROW("cuMemPoolImportPointer", 11020, cuMemPoolImportPointer),
    ROW("cuMemAddressReserve", 10020, cuMemAddressReserve), ROW("cuMemAddressFree", 10020, cuMemAddressFree),
    ROW("cuMemCreate", 10020, cuMemCreate), ROW("cuMemRelease", 10020, cuMemRelease), ROW("cuMemMap", 10020, cuMemMap),
    ROW("cuMemUnmap", 10020, cuMemUnmap), ROW("cuMemSetAccess", 10020, cuMemSetAccess),
    ROW("cuMemRetainAllocationHandle", 11000, cuMemRetainAllocationHandle),
    ROW("cuMemExportToShareableHandle", 10020, cuMemExportToShareableHandle),
    ROW("cuMemImportFromShareableHandle", 10020, cuMemImportFromShareableHandle), ROW("cuMulticastCreate", 12010, cuMulticastCreate),
};

/* Flag 2: of functions that use a stream, the twin whose default stream is the thread's own. */
CUresult cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    *function = NULL;
    for (size_t at = 0; at < sizeof functions / sizeof functions[0]; at++)
        if (strcmp(functions[at].name, name) == 0 && functions[at].since <= version)
            *function = flags & 2 ? functions[at].per_thread : functions[at].function;
    return *function ? CU_OK : CU_NOT_FOUND;
}
CUresult cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    CUresult result = cuGetProcAddress(name, function, version, flags);
    if (status != NULL) *status = result == CU_OK ? 0 : 1;
    return result;
}
