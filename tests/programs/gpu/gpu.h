/* The truth of programs that use the fake GPU: what truth.h has of the host, for memory of a GPU. A site says also which
 * space its memory is of, on which device, what the driver's call is called where the runtime's is not seen, and how much
 * of it is unsure; failed calls are listed. Before a program prints that, it compares it with what the driver holds. */
#ifndef GPU_H
#define GPU_H

#include "../c/truth.h"
#include "driver.h"
#include <dlfcn.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { ANY_DEVICE = -1, NO_DEVICE = -2 };

struct gpu_site {
    struct truth_site *site;
    const char *driver_call;
    enum fake_gpu_space space;
    int device;
    uint64_t unsure_blocks, unsure_bytes;
};

/* Declares the site of the function of the same name. */
#define GPU_SITE(function, call, driver_call, space)                                               \
    SITE(function, call);                                                                          \
    static struct gpu_site function##_gpu = {&function##_site, driver_call, space, ANY_DEVICE, 0, 0};                      \
    static struct gpu_site *function##_gpu_entry __attribute__((section("gpu_sites"), used)) = &function##_gpu

extern struct gpu_site *__start_gpu_sites[] __attribute__((weak));
extern struct gpu_site *__stop_gpu_sites[] __attribute__((weak));

/* Which device the report is to name from now on. */
static int gpu_device = 0;

/* A call has made `size` bytes here, if it returned 0. Use it on the line of the call. */
#define gpu_took(function, result, size) gpu_took_at(&function##_gpu, result, size, __LINE__)
static inline void gpu_took_at(struct gpu_site *site, int result, size_t size, uint64_t line) {
    if (result != 0) truth_fail("a GPU call failed that must not");
    truth_add(&site->site->allocs, 1);
    truth_add(&site->site->alloc_bytes, size);
    site->site->line = line;
    site->device = gpu_device;
}

/* What came from a site was taken back, by a call that returned 0. */
#define gpu_gave(function, result, size) gpu_gave_at(&function##_gpu, result, size)
static inline void gpu_gave_at(struct gpu_site *site, int result, size_t size) {
    if (result != 0) truth_fail("a GPU call failed that must not");
    gave(site->site, size);
}

/* A failed call. `gpu_failed` stands on its line. */
struct gpu_error { const char *function, *call, *driver_call; uint64_t code, count, bytes, largest, line; };
static struct gpu_error gpu_errors[32];
#define gpu_failed(call, driver_call, result, expected, bytes) gpu_failed_at(__func__, call, driver_call, result, expected, bytes, __LINE__)
static inline void gpu_failed_at(const char *function, const char *call, const char *driver_call, int result, int expected, uint64_t bytes, uint64_t line) {
    if (result != expected) truth_fail("a GPU call did not fail as it must");
    struct gpu_error *error = gpu_errors;
    while (error < gpu_errors + 32 && error->function != NULL &&
           (strcmp(error->function, function) != 0 || strcmp(error->call, call) != 0 || error->code != (uint64_t)expected))
        error++;
    if (error == gpu_errors + 32) truth_fail("too many failed calls");
    error->function = function, error->call = call, error->driver_call = driver_call;
    error->code = (uint64_t)expected, error->line = line;
    error->count++;
    error->bytes += bytes;
    if (bytes > error->largest) error->largest = bytes;
}

static const char *const gpu_spaces[FAKE_SPACES] = {
    "device", "managed", "pinned", "registered", "array", "vmm", "vmm-host", "ipc", "reservation", "other"
};

/* What the driver holds is what the sites say, but for what is unsure: of that it has dropped so much already. */
static inline void gpu_compare(uint64_t unsure_dropped_bytes) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (driver == NULL) return; /* without one nothing has succeeded */
    __typeof__(&fake_gpu_count) count = (__typeof__(count))dlsym(driver, "fake_gpu_count");
    for (int space = 0; space < FAKE_OTHER; space++) {
        uint64_t blocks = 0, bytes = 0, held_blocks, held_bytes;
        for (struct gpu_site **entry = __start_gpu_sites; entry < __stop_gpu_sites; entry++) {
            if ((int)(*entry)->space != space) continue;
            blocks += (*entry)->site->allocs - (*entry)->site->frees;
            bytes += (*entry)->site->alloc_bytes - (*entry)->site->freed_bytes;
        }
        count((enum fake_gpu_space)space, &held_blocks, &held_bytes);
        if (space == FAKE_DEVICE ? bytes != held_bytes + unsure_dropped_bytes : blocks != held_blocks || bytes != held_bytes) {
            truth_write(2, gpu_spaces[space], strlen(gpu_spaces[space]));
            truth_fail(": the driver holds other memory than the truth says");
        }
    }
}

static inline void gpu_put_text(const char *name, const char *value) {
    truth_put(",\"");
    truth_put(name);
    truth_put("\":\"");
    truth_put(value);
    truth_put("\"");
}

static inline void gpu_put(void) {
    truth_put(",\"gpu\":{\"sites\":{");
    for (struct gpu_site **entry = __start_gpu_sites; entry < __stop_gpu_sites; entry++) {
        const struct gpu_site *site = *entry;
        truth_put(entry == __start_gpu_sites ? "\"" : ",\"");
        truth_put(site->site->name);
        truth_put("\":{\"_\":0");
        gpu_put_text("driver_call", site->driver_call);
        gpu_put_text("space", gpu_spaces[site->space]);
        if (site->device >= 0) truth_put_field("device", (uint64_t)site->device);
        truth_put(site->device == NO_DEVICE ? ",\"device_known\":false" : ",\"device_known\":true");
        truth_put_field("unsure_blocks", site->unsure_blocks);
        truth_put_field("unsure_bytes", site->unsure_bytes);
        truth_put_field("alloc_bytes", site->site->alloc_bytes);
        truth_put("}");
    }
    truth_put("},\"errors\":[");
    for (const struct gpu_error *error = gpu_errors; error < gpu_errors + 32 && error->function != NULL; error++) {
        truth_put(error == gpu_errors ? "{\"_\":0" : ",{\"_\":0");
        gpu_put_text("function", error->function);
        gpu_put_text("call", error->call);
        gpu_put_text("driver_call", error->driver_call);
        truth_put_field("code", error->code);
        truth_put_field("count", error->count);
        truth_put_field("bytes", error->bytes);
        truth_put_field("largest_bytes", error->largest);
        truth_put_field("line", error->line);
        truth_put("}");
    }
    truth_put("]}");
}

/* Prints the truth after a look at the driver, and stays until the harness lets go. */
static inline void tell_gpu_truth_but(uint64_t unsure_dropped_bytes) {
    gpu_compare(unsure_dropped_bytes);
    truth_more = gpu_put;
    tell_truth();
}
static inline void tell_gpu_truth(void) { tell_gpu_truth_but(0); }

/* A call that makes something in the function `name`, which returns its number; and one that takes it back. `call` uses
 * `n` and writes `*p`. A call of the driver alone has one name. */
#define GPU_TAKES(name, api, space, type, call)                                                    \
    GPU_SITE(name, #api, #api, space);                                                             \
    ALONE type name(size_t n) { type made; type *p = &made; int result = (call); gpu_took(name, result, n); return made; }
/* The same of the runtime library, which calls the driver. */
#define CUDA_TAKES(name, api, driver_api, space, type, call)                                       \
    GPU_SITE(name, #api, #driver_api, space);                                                      \
    ALONE type name(size_t n) { type made; type *p = &made; int result = (call); gpu_took(name, result, n); return made; }

#define GPU_GIVES(name, type, call)                                                                \
    ALONE void name##_free(type p, size_t n) { int result = (call); gpu_gave(name, result, n); }

#ifdef __cplusplus
}
#endif
#endif
