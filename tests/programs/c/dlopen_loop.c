/* Opens and closes a library that allocates. usage: dlopen_loop LIBRARY TIMES */
#define _GNU_SOURCE
#include "truth.h"
#include <dlfcn.h>

SITE(call_plugin, "malloc");
ALONE void call_plugin(void *(*allocate)(size_t), void (*release)(void *), size_t n) {
    void *block = allocate(n); took(&call_plugin_site, block, n);
    release(block);
    gave(&call_plugin_site, n);
    block = allocate(n); took(&call_plugin_site, block, n); /* stays */
}

int main(int argc, char **argv) {
    if (argc != 3) truth_fail("usage: dlopen_loop LIBRARY TIMES");
    step("ready");
    for (int i = 0; i < atoi(argv[2]); i++) {
        void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        if (library == NULL) truth_fail("dlopen");
        void *(*allocate)(size_t) = (void *(*)(size_t))dlsym(library, "plugin_allocate");
        void (*release)(void *) = (void (*)(void *))dlsym(library, "plugin_free");
        if (allocate == NULL || release == NULL) truth_fail("dlsym");
        call_plugin(allocate, release, 48);
        dlclose(library);
    }
    tell_truth();
    return 0;
}
