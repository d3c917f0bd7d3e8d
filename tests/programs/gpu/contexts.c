/* What goes with a context that ends, and what does not; and which device is whose.
 * usage: contexts destroy|destroy_v1|two|unsure|one_unseen|release|reset|reset_v2|reset_keeps|push_pop|threads */
#include "gpu.h"
#include <pthread.h>

/* One of each kind; `name` says of which context. */
#define EACH(of)                                                                                   \
    GPU_TAKES(of##_alloc, cuMemAlloc_v2, FAKE_DEVICE, CUdeviceptr, cuMemAlloc_v2(p, n))                                    \
    GPU_TAKES(of##_managed, cuMemAllocManaged, FAKE_MANAGED, CUdeviceptr, cuMemAllocManaged(p, n, 1))                      \
    GPU_TAKES(of##_async, cuMemAllocAsync, FAKE_DEVICE, CUdeviceptr, cuMemAllocAsync(p, n, NULL))                          \
    GPU_TAKES(of##_host, cuMemAllocHost_v2, FAKE_PINNED, void *, cuMemAllocHost_v2(p, n))                                  \
    GPU_TAKES(of##_host_alloc, cuMemHostAlloc, FAKE_PINNED, void *, cuMemHostAlloc(p, n, 0))                               \
    GPU_SITE(of##_pitch, "cuMemAllocPitch_v2", "cuMemAllocPitch_v2", FAKE_DEVICE);                 \
    ALONE void of##_pitch(size_t n) {                                                              \
        CUdeviceptr p; size_t pitch;                                                               \
        int result = cuMemAllocPitch_v2(&p, &pitch, 512, n / 512, 4); gpu_took(of##_pitch, result, n);                     \
    }                                                                                              \
    GPU_SITE(of##_array, "cuArrayCreate_v2", "cuArrayCreate_v2", FAKE_ARRAY);                      \
    ALONE void of##_array(size_t n) {                                                              \
        CUarray p; CUarrayDesc desc = {n, 0, CU_UINT8, 1};                                         \
        int result = cuArrayCreate_v2(&p, &desc); gpu_took(of##_array, result, n);                 \
    }                                                                                              \
    GPU_SITE(of##_mipmap, "cuMipmappedArrayCreate", "cuMipmappedArrayCreate", FAKE_ARRAY);         \
    ALONE void of##_mipmap(size_t n) {                                                             \
        CUmipmappedArray p; CUarray3dDesc desc = {n, 0, 0, CU_UINT8, 1, 0};                        \
        int result = cuMipmappedArrayCreate(&p, &desc, 1); gpu_took(of##_mipmap, result, n);       \
    }                                                                                              \
    GPU_SITE(of##_create, "cuMemCreate", "cuMemCreate", FAKE_VMM);                                 \
    ALONE void of##_create(size_t n, int device) {                                                 \
        CUhandle p; CUmemProp prop = {.type = 1, .location = {CU_ON_DEVICE, device}};              \
        int result = cuMemCreate(&p, n, &prop, 0); gpu_took(of##_create, result, n);               \
    }                                                                                              \
    ALONE void of##_all(int device, int rounds) {                                                  \
        for (int i = 0; i < rounds; i++) {                                                         \
            of##_alloc(1000), of##_managed(2000), of##_async(3000), of##_host(4000), of##_host_alloc(5000);                \
            of##_pitch(512 * 6), of##_array(7000), of##_mipmap(8000), of##_create(2 << 20, device);                        \
        }                                                                                          \
    }                                                                                              \
    static void of##_ends(uint64_t rounds) {                                                       \
        struct truth_site *gone[] = {&of##_alloc_site, &of##_managed_site, &of##_host_site, &of##_host_alloc_site,         \
                                     &of##_pitch_site, &of##_array_site, &of##_mipmap_site};                               \
        for (int i = 0; i < 7; i++) gone[i]->frees = gone[i]->allocs, gone[i]->freed_bytes = gone[i]->alloc_bytes;         \
        expect_ledger("gpu_context_freed", 7 * rounds);                                            \
    }
EACH(first)
EACH(second)

static void must(int result) {
    if (result != 0) truth_fail("a call of the driver failed");
}
static CUcontext context_of(int device) {
    CUcontext context;
    must(cuCtxCreate_v2(&context, 0, device));
    return context;
}

static void destroy(CUresult (*end)(CUcontext)) {
    CUcontext context = context_of(0);
    first_all(0, 3);
    must(end(context));
    first_ends(3);
    /* The addresses come back, in another context. */
    context_of(0);
    second_all(0, 2);
}
static void run_destroy(void) { destroy(cuCtxDestroy_v2); }
static void run_destroy_v1(void) { destroy(cuCtxDestroy); }

/* Both are known: one ends, the other does not. A destroy that fails ends nothing. */
static void run_two(void) {
    CUcontext one = context_of(0);
    first_all(0, 2);
    CUcontext two = context_of(1);
    gpu_device = 1;
    second_all(1, 3);
    fake_gpu_fail_next_free(CU_INVALID_HANDLE);
    if (cuCtxDestroy_v2(two) == 0) truth_fail("a context was destroyed");
    must(cuCtxDestroy_v2(one));
    first_ends(2);
}

static CUcontext early[2];

/* Two contexts from before anybody looked: what the thread has made in its current one may be either's, until it says
 * which one it uses. */
static void run_unsure(void) {
    gpu_device = NO_DEVICE;
    second_alloc(1000), second_alloc(1000), second_async(3000);
    gpu_device = ANY_DEVICE;
    must(cuCtxPushCurrent_v2(early[1]));
    first_managed(6000);
    must(cuCtxSetCurrent(early[0]));
    first_alloc(5000);
    must(cuCtxDestroy_v2(early[0]));
    first_alloc_site.frees = 1, first_alloc_site.freed_bytes = 5000;
    expect_ledger("gpu_context_freed", 1);
    expect_ledger("gpu_context_unsure", 2);
    second_alloc_gpu.unsure_blocks = 2, second_alloc_gpu.unsure_bytes = 2000;
}

/* Only one, and that from before anybody looked: what ends with it is clear. */
static void run_one_unseen(void) {
    gpu_device = NO_DEVICE;
    first_all(0, 2);
    first_create_gpu.device = 0; /* which its creator said */
    must(cuCtxDestroy_v2(early[0]));
    first_ends(2);
}

static void run_release(void) {
    CUcontext same, again;
    must(cuDevicePrimaryCtxRetain(&same, 1));
    must(cuDevicePrimaryCtxRetain(&again, 1));
    must(cuCtxSetCurrent(same));
    gpu_device = 1;
    first_all(1, 2);
    must(cuDevicePrimaryCtxRelease(1)); /* not the last */
    second_all(1, 1);
    fact("before_the_last", 1);
    must(cuDevicePrimaryCtxRelease_v2(1));
    first_ends(2);
    second_ends(1);
    must(cuDevicePrimaryCtxRetain(&same, 1));
    must(cuCtxSetCurrent(same));
    second_all(1, 1);
}

static void reset(CUresult (*end)(CUdevice)) {
    CUcontext primary, other = context_of(1);
    gpu_device = 1;
    second_all(1, 1);
    must(cuDevicePrimaryCtxRetain(&primary, 0));
    must(cuCtxSetCurrent(primary));
    gpu_device = 0;
    first_all(0, 3);
    must(end(0));
    first_ends(3);
    (void)other;
}
static void run_reset(void) { reset(cuDevicePrimaryCtxReset); }
static void run_reset_v2(void) { reset(cuDevicePrimaryCtxReset_v2); }

/* "Resetting the primary context does not release it": two references before, two after. */
static void run_reset_keeps(void) {
    CUcontext primary;
    must(cuDevicePrimaryCtxRetain(&primary, 0));
    must(cuDevicePrimaryCtxRetain(&primary, 0));
    must(cuCtxSetCurrent(primary));
    first_all(0, 1);
    must(cuDevicePrimaryCtxReset(0));
    first_ends(1);
    second_all(0, 1);
    must(cuDevicePrimaryCtxRelease(0));
}

/* Which context is the thread's, and with that which device. */
static void run_push_pop(void) {
    CUcontext zero = context_of(0), one = context_of(1), popped;
    gpu_device = 1;
    first_alloc(1000);
    must(cuCtxPushCurrent_v2(zero));
    gpu_device = 0;
    first_managed(2000);
    must(cuCtxPopCurrent_v2(&popped));
    if (popped != zero) truth_fail("another context");
    gpu_device = 1;
    first_array(3000);
    must(cuCtxPopCurrent_v2(NULL));
    gpu_device = 0;
    second_alloc(4000);
    must(cuCtxSetCurrent(one));
    gpu_device = 1;
    second_managed(5000);
}

/* Each thread has its own. */
static void *of_thread(void *of) {
    must(cuCtxSetCurrent(of));
    for (int i = 0; i < 4; i++) second_alloc(1000);
    return NULL;
}
static void run_threads(void) {
    CUcontext zero = context_of(0), one = context_of(1);
    pthread_t thread;
    gpu_device = 1;
    if (pthread_create(&thread, NULL, of_thread, one) != 0 || pthread_join(thread, NULL) != 0) truth_fail("thread");
    must(cuCtxSetCurrent(zero));
    gpu_device = 0;
    for (int i = 0; i < 2; i++) first_alloc(500);
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(void); int early; uint64_t dropped; } modes[] = {
        {"destroy", run_destroy, 0, 0}, {"destroy_v1", run_destroy_v1, 0, 0}, {"two", run_two, 0, 0},
        /* The current one of the two is destroyed in truth: its two blocks are. */
        {"unsure", run_unsure, 2, 2000}, {"one_unseen", run_one_unseen, 1, 0}, {"release", run_release, 0, 0},
        {"reset", run_reset, 0, 0}, {"reset_v2", run_reset_v2, 0, 0}, {"reset_keeps", run_reset_keeps, 0, 0},
        {"push_pop", run_push_pop, 0, 0}, {"threads", run_threads, 0, 0},
    };
    must(cuInit(0));
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        if (argc != 2 || strcmp(argv[1], modes[i].name) != 0) continue;
        if (modes[i].early > 1) early[1] = context_of(1);
        if (modes[i].early > 0) early[0] = context_of(0);
        step("ready");
        modes[i].run();
        tell_gpu_truth_but(modes[i].dropped);
        return 0;
    }
    truth_fail("usage: contexts MODE");
}
