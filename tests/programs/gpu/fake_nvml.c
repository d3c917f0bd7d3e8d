/* A libnvidia-ml.so.1 of our own, for machines without NVIDIA's driver: two devices and the processes that it is told of.
 *
 * The prototypes are written by hand from NVIDIA's "NVML API Reference Guide"; nothing of NVIDIA's is in here.
 * FAKE_NVML (the environment's, else the macro) lists processes as DEVICE:PID:BYTES, with blanks between them; no BYTES
 * stands for a number that is not available. FAKE_NVML_BROKEN in the environment makes nvmlInit_v2 fail. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef FAKE_NVML
#define FAKE_NVML ""
#endif

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };
enum { DEVICES = 2 };

struct process {
    unsigned pid;
    unsigned long long used_bytes;
    unsigned gpu_instance, compute_instance;
};

static int indexes[DEVICES] = {0, 1};

int nvmlInit_v2(void) {
    return getenv("FAKE_NVML_BROKEN") ? DRIVER_NOT_LOADED : SUCCESS;
}

int nvmlShutdown(void) {
    return SUCCESS;
}

static int put(char *to, unsigned length, const char *text) {
    if (strlen(text) >= length)
        return INSUFFICIENT_SIZE;
    strcpy(to, text);
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    return put(version, length, "580.00");
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = DEVICES;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if (index >= DEVICES)
        return INVALID_ARGUMENT;
    *device = &indexes[index];
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    char text[32];
    snprintf(text, sizeof text, "Fake GPU %d", *(int *)device);
    return put(name, length, text);
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    char text[64];
    snprintf(text, sizeof text, "GPU-00000000-0000-0000-0000-00000000000%d", *(int *)device);
    return put(uuid, length, text);
}

static int processes(void *device, unsigned *count, struct process *into) {
    const char *list = getenv("FAKE_NVML");
    unsigned found = 0, index, pid;
    int read;
    if (!list)
        list = FAKE_NVML;
    while (sscanf(list, "%u:%u:%n", &index, &pid, &read) == 2) {
        int is_known = list[read] >= '0' && list[read] <= '9';
        char *end = (char *)list + read;
        unsigned long long used_bytes = is_known ? strtoull(end, &end, 10) : ~0ull;
        list = end;
        if (index != (unsigned)*(int *)device)
            continue;
        if (found < *count)
            into[found] = (struct process){pid, used_bytes, ~0u, ~0u};
        found++;
    }
    int result = found > *count ? INSUFFICIENT_SIZE : SUCCESS;
    *count = found;
    return result;
}

#ifndef WITHOUT_V3
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process *into) {
    return processes(device, count, into);
}
#endif

int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned *count, struct process *into) {
    return processes(device, count, into);
}
