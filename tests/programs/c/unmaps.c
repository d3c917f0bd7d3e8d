/* unmaps dlclose LIBRARY: loads a second C library into a namespace of its own, allocates by it, closes it
 * (its pages are gone), and goes on allocating by its own.
 * unmaps libc: allocates, unmaps its C library, and goes on without one. It stands at "unmapped" then, and
 * ends with 0 when it may. */
#define _GNU_SOURCE
#include "truth.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/syscall.h>

TAKES(before, "malloc", malloc(n))
TAKES(after, "malloc", malloc(n))

static void *(*their_malloc)(size_t);
SITE(theirs, "malloc");
ALONE void *theirs(size_t n) { void *block = their_malloc(n); took(&theirs_site, block, n); return block; }

static inline __attribute__((always_inline)) long raw(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

static char maps[1 << 16];
struct range { unsigned long from, to; };
static struct range ranges[64];

/* Where files with `part` in their names are mapped. */
static int mapped(const char *part) {
    int fd = open("/proc/self/maps", O_RDONLY), found = 0;
    size_t length = 0;
    for (ssize_t got; (got = read(fd, maps + length, sizeof maps - 1 - length)) > 0;) length += (size_t)got;
    close(fd);
    for (char *line = maps, *end; (end = strchr(line, '\n')) != NULL && found < 64; line = end + 1) {
        *end = 0;
        char *at;
        struct range range = {strtoul(line, &at, 16), strtoul(at + 1, NULL, 16)};
        if (strstr(line, part) != NULL) ranges[found++] = range;
    }
    return found;
}

/* From here on nothing of the C library may be called: there is none. */
__attribute__((noreturn, noinline, no_stack_protector)) static void without_libc(int count) {
    static const char unmapped[] = "unmapped\n";
    char byte;
    for (int i = 0; i < count; i++)
        if (raw(SYS_munmap, (long)ranges[i].from, (long)(ranges[i].to - ranges[i].from), 0) != 0)
            raw(SYS_exit_group, 95, 0, 0);
    raw(SYS_write, 1, (long)unmapped, sizeof unmapped - 1);
    raw(SYS_read, 0, (long)&byte, 1);
    raw(SYS_exit_group, 0, 0, 0);
    __builtin_unreachable();
}

static void with_a_second(const char *library) {
    void *second = dlmopen(LM_ID_NEWLM, library, RTLD_NOW);
    if (second == NULL) truth_fail(dlerror());
    *(void **)&their_malloc = dlsym(second, "malloc");
    if (their_malloc == NULL) truth_fail("no malloc");
    step("loaded");
    for (int i = 0; i < 4; i++) theirs(400);
    if (dlclose(second) != 0) truth_fail("dlclose");
    step("closed");
    for (int i = 0; i < 6; i++) after(600);
    tell_truth();
}

int main(int argc, char **argv) {
    if (argc < 2) truth_fail("dlclose LIBRARY, or libc");
    step("ready");
    for (int i = 0; i < 5; i++) before(500);
    if (strcmp(argv[1], "dlclose") == 0) {
        with_a_second(argv[2]);
        return 0;
    }
    print_truth();
    without_libc(mapped("libc.so.6"));
}
