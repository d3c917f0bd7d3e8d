/* What `cargo xtask gpu-accept` traces: known numbers of blocks in functions of known names, by the calls of the runtime
 * library and of the driver as NVIDIA names them. It compiles with nvcc and with g++, from prototypes of our own.
 *
 *   accept_leak leaks      a context; "ready"; everything below; the truth; waits
 *   accept_leak cold       "ready"; a context; "loaded"; everything; the truth; waits
 *   accept_leak late       three blocks of leak_here; "ready"; four more; the truth; waits
 *   accept_leak reset      "ready"; everything, then cudaDeviceReset; the truth; waits
 *   accept_leak device     a context; "ready"; device memory only; the truth; waits
 *   accept_leak sanitize   leak_here's seven, then cudaDeviceReset; waits for nothing
 *
 * It waits for one byte of stdin after each word. */
#include "driver.h"
#include "runtime.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thread>
#include <unistd.h>

#define SITE extern "C" __attribute__((noinline, used, visibility("default"))) void
/* Nothing behind the call may become the tail of the function: it would leave the stack. */
#define STAY __asm__ volatile("" ::: "memory")

static const size_t MIB = 1 << 20;
static size_t pitch_bytes;

static void check(int result, const char *what) {
    if (result == 0) return;
    fprintf(stderr, "accept_leak: %s: error %d\n", what, result);
    exit(3);
}
#define CHECK(call) check((call), #call)

static void wait_at(const char *word) {
    char byte;
    printf("%s\n", word);
    fflush(stdout);
    if (read(0, &byte, 1) != 1) exit(0);
}

/* Of the driver what the runtime library has no call for. By name, so that nothing of it is needed to link. */
static void *driver(const char *name) {
    static void *library = dlopen("libcuda.so.1", RTLD_NOW);
    void *function = library ? dlsym(library, name) : NULL;
    if (!function) {
        fprintf(stderr, "accept_leak: libcuda.so.1 has no %s\n", name);
        exit(3);
    }
    return function;
}
#define DRIVER(name) reinterpret_cast<decltype(&name)>(driver(#name))

static void context() {
    CHECK(cudaFree(NULL));
}

SITE leak_here(int blocks) {
    for (int i = 0; i < blocks; i++) {
        void *p;
        CHECK(cudaMalloc(&p, 3 * MIB));
    }
    STAY;
}

SITE leak_managed() {
    for (int i = 0; i < 2; i++) {
        void *p;
        CHECK(cudaMallocManaged(&p, 4 * MIB, 1));
    }
    STAY;
}

SITE leak_async() {
    for (int i = 0; i < 2; i++) {
        void *p;
        CHECK(cudaMallocAsync(&p, MIB, NULL));
    }
    STAY;
}

SITE leak_host() {
    for (int i = 0; i < 2; i++) {
        void *p;
        CHECK(cudaMallocHost(&p, MIB));
    }
    STAY;
}

SITE leak_registered() {
    void *memory = NULL;
    if (posix_memalign(&memory, 4096, MIB) != 0) exit(3);
    memset(memory, 1, MIB);
    CHECK(cudaHostRegister(memory, MIB, 0));
    STAY;
}

SITE leak_pitch() {
    for (int i = 0; i < 2; i++) {
        void *p;
        CHECK(cudaMallocPitch(&p, &pitch_bytes, 1000, 100));
    }
    STAY;
}

/* As llama.cpp does: the handle goes as soon as it is mapped. */
SITE leak_mapped() {
    const size_t size = 2 * MIB;
    CUdeviceptr range;
    CHECK(DRIVER(cuMemAddressReserve)(&range, 2 * size, 0, 0, 0));
    for (size_t i = 0; i < 2; i++) {
        CUmemProp prop;
        memset(&prop, 0, sizeof prop);
        prop.type = 1;
        prop.location.type = CU_ON_DEVICE;
        CUhandle handle;
        CHECK(DRIVER(cuMemCreate)(&handle, size, &prop, 0));
        CHECK(DRIVER(cuMemMap)(range + i * size, size, 0, handle, 0));
        CHECK(DRIVER(cuMemRelease)(handle));
    }
    STAY;
}

SITE balanced() {
    for (int i = 0; i < 50; i++) {
        void *p;
        CHECK(cudaMalloc(&p, MIB));
        CHECK(cudaFree(p));
    }
    STAY;
}

/* Freed by another thread than the one that allocated. */
SITE crossed() {
    void *blocks[5];
    for (void *&block : blocks) CHECK(cudaMalloc(&block, MIB));
    std::thread([&] {
        for (void *block : blocks) CHECK(cudaFree(block));
    }).join();
    STAY;
}

/* More than any GPU has. */
SITE too_much() {
    void *p = NULL;
    if (cudaMalloc(&p, (size_t)1 << 50) == 0) exit(3);
    STAY;
}

static void everything() {
    leak_here(7);
    leak_managed();
    leak_async();
    leak_host();
    leak_registered();
    leak_pitch();
    leak_mapped();
    balanced();
    crossed();
    too_much();
}

static void truth() {
    char line[64];
    snprintf(line, sizeof line, "{\"pitch_bytes\":%zu}", pitch_bytes);
    wait_at(line);
}

int main(int count, char **words) {
    const char *mode = count > 1 ? words[1] : "";
    if (!strcmp(mode, "leaks")) {
        context();
        wait_at("ready");
        everything();
    } else if (!strcmp(mode, "cold")) {
        wait_at("ready");
        context();
        wait_at("loaded");
        everything();
    } else if (!strcmp(mode, "late")) {
        leak_here(3);
        wait_at("ready");
        leak_here(4);
    } else if (!strcmp(mode, "reset")) {
        wait_at("ready");
        everything();
        CHECK(cudaDeviceReset());
    } else if (!strcmp(mode, "device")) {
        context();
        wait_at("ready");
        leak_here(7);
        leak_mapped();
    } else if (!strcmp(mode, "sanitize")) {
        leak_here(7);
        CHECK(cudaDeviceReset());
        return 0;
    } else {
        fprintf(stderr, "accept_leak leaks|cold|late|reset|device|sanitize\n");
        return 2;
    }
    truth();
    return 0;
}
