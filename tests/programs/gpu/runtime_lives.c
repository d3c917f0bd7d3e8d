/* How memory of the runtime library lives and ends: on other threads, other devices, in a child, with the device, with
 * the process. It has opened the driver, but for `fork_first`, and nothing more before the harness lets it go.
 * usage: runtime_lives threads|devices|fork|fork_first|reset|exit|stages|before_attach */
#include "gpu.h"
#include "runtime.h"
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

enum { THREADS = 8, BLOCKS = 40 };

CUDA_TAKES(kept, cudaMalloc, cuMemAlloc_v2, FAKE_DEVICE, void *, cudaMalloc(p, n))
GPU_GIVES(kept, void *, cudaFree(p))
CUDA_TAKES(passed_on, cudaMalloc, cuMemAlloc_v2, FAKE_DEVICE, void *, cudaMalloc(p, n))
GPU_GIVES(passed_on, void *, cudaFree(p))
CUDA_TAKES(on_second, cudaMalloc, cuMemAlloc_v2, FAKE_DEVICE, void *, cudaMalloc(p, n))
CUDA_TAKES(kept_async, cudaMallocAsync, cuMemAllocAsync, FAKE_DEVICE, void *, cudaMallocAsync(p, n, NULL))
CUDA_TAKES(kept_host, cudaMallocHost, cuMemHostAlloc, FAKE_PINNED, void *, cudaMallocHost(p, n))
CUDA_TAKES(in_child, cudaMalloc, cuMemAlloc_v2, FAKE_DEVICE, void *, cudaMalloc(p, n))
GPU_GIVES(in_child, void *, cudaFree(p))

static void must(int result) {
    if (result != 0) truth_fail("a call of the runtime library failed");
}

static void *blocks[THREADS][BLOCKS];
static pthread_barrier_t barrier;
/* Each makes blocks; when all are made each frees its neighbour's. */
static void *thread(void *argument) {
    size_t me = (size_t)argument;
    for (size_t i = 0; i < BLOCKS; i++) blocks[me][i] = passed_on(1000 + i);
    kept(500);
    pthread_barrier_wait(&barrier);
    for (size_t i = 0; i < BLOCKS; i++) passed_on_free(blocks[(me + 1) % THREADS][i], 1000 + i);
    return NULL;
}
static void threads(void) {
    pthread_t ids[THREADS];
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&ids[i], NULL, thread, (void *)i) != 0) truth_fail("thread");
    for (size_t i = 0; i < THREADS; i++) pthread_join(ids[i], NULL);
}

static void devices(void) {
    for (int i = 0; i < 3; i++) {
        must(cudaSetDevice(0));
        gpu_device = 0;
        kept(1000);
        void *here = passed_on(4000);
        must(cudaSetDevice(1));
        gpu_device = 1;
        on_second(2000);
        passed_on_free(here, 4000); /* of the other device */
    }
    passed_on_gpu.device = ANY_DEVICE;
    if (cudaSetDevice(7) == 0) truth_fail("a device out of nowhere");
    on_second(2000); /* still there */
}

/* What the parent has of a GPU is not its child's. */
static void fork_after(void) {
    for (int i = 0; i < 5; i++) kept(1000);
    pid_t child = fork();
    if (child == 0) {
        void *p;
        _exit(cudaMalloc(&p, 4096) == CU_NOT_INITIALISED ? 0 : 1);
    }
    int status;
    if (waitpid(child, &status, 0) != child || status != 0) truth_fail("child");
    kept_free(kept(1000), 1000);
}

/* Parent and child use it, each by itself: the driver hands out the same addresses. The child's truth is first. */
static void fork_before(void) {
    int to_parent[2];
    char byte = 0;
    if (pipe(to_parent) != 0) truth_fail("pipe");
    pid_t child = fork();
    if (child == 0) {
        step("child");
        for (int i = 0; i < 6; i++) in_child(700);
        in_child_free(in_child(700), 700);
        gpu_compare(0);
        truth_more = gpu_put;
        print_truth();
        truth_write(to_parent[1], &byte, 1);
        pause();
    }
    if (read(to_parent[0], &byte, 1) != 1) truth_fail("the child died");
    for (int i = 0; i < 5; i++) kept(1000);
    kept_free(kept(1000), 1000);
    fact("child", (uint64_t)child);
    tell_gpu_truth();
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    _exit(0);
}

static void gone(struct truth_site *site) { site->frees = site->allocs, site->freed_bytes = site->alloc_bytes; }
static void reset(void) {
    for (int i = 0; i < 4; i++) kept(1000), kept_async(2000), kept_host(3000);
    must(cudaDeviceReset());
    gone(&kept_site), gone(&kept_host_site);
    expect_ledger("gpu_context_freed", 8);
    for (int i = 0; i < 2; i++) passed_on(1000); /* the same addresses */
}

/* The library releases its contexts inside `exit`: what lives then is live at exit. */
static void exits(void) {
    for (int i = 0; i < 4; i++) kept(1000), kept_async(2000), kept_host(3000);
    must(cudaSetDevice(1));
    gpu_device = 1;
    on_second(500);
}

static void stages(void) {
    for (int i = 0; i < 3; i++) kept(1000);
    tell_gpu_truth();
    for (int i = 0; i < 2; i++) kept(1000);
}

static void *earlier[4];
static void before_attach(void) {
    gpu_device = NO_DEVICE;
    kept_free(kept(1000), 1000);
    kept(1000);
    for (int i = 0; i < 3; i++) must(cudaFree(earlier[i]));
    expect_ledger("gpu_free_unknown", 3);
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(void); int unchecked; } modes[] = {
        {"threads", threads, 0}, {"devices", devices, 0}, {"fork", fork_after, 0}, {"fork_first", fork_before, 0}, {"reset", reset, 0},
        {"exit", exits, 0}, {"stages", stages, 0}, {"before_attach", before_attach, 1},
    };
    if (argc == 2 && strcmp(argv[1], "before_attach") == 0)
        for (int i = 0; i < 4; i++) must(cudaMalloc(&earlier[i], 100));
    int number;
    if (argc == 2 && strcmp(argv[1], "fork_first") != 0) must(cudaGetDeviceCount(&number));
    step("ready");
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        if (argc != 2 || strcmp(argv[1], modes[i].name) != 0) continue;
        modes[i].run();
        if (!modes[i].unchecked) {
            tell_gpu_truth();
        } else {
            truth_more = gpu_put;
            tell_truth();
        }
        return 0;
    }
    truth_fail("usage: runtime_lives MODE");
}
