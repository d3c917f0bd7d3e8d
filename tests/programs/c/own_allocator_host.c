/* Opens a library with an allocator of its own and leaks through it. usage: own_allocator_host LIBRARY [early]
 * With "early" the library is there before the attach. */
#define _GNU_SOURCE
#include "truth.h"
#include <dlfcn.h>

static void *(*own_take)(size_t), *(*own_take_zeroed)(size_t), *(*own_move)(void *, size_t);
static void (*own_free)(void *);

TAKES(through_take, "*", own_take(n))
TAKES(through_zeroed, "*", own_take_zeroed(n))
SITE(through_move, "*");
ALONE void *through_move(void *old, size_t old_n, size_t n) {
    void *block = own_move(old, n); took(&through_move_site, block, n);
    gave(&through_take_site, old_n);
    return block;
}
ALONE void through_free(struct truth_site *site, void *block, size_t n) { own_free(block); gave(site, n); }

static void *look_up(void *library, const char *name) {
    void *symbol = dlsym(library, name);
    if (symbol == NULL) truth_fail(name);
    return symbol;
}

static void load(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) truth_fail("dlopen");
    own_take = (void *(*)(size_t))look_up(library, "own_take");
    own_take_zeroed = (void *(*)(size_t))look_up(library, "own_take_zeroed");
    own_move = (void *(*)(void *, size_t))look_up(library, "own_move");
    own_free = (void (*)(void *))look_up(library, "own_free");
}

int main(int argc, char **argv) {
    if (argc < 2) truth_fail("usage: own_allocator_host LIBRARY [early]");
    if (argc > 2) load(argv[1]);
    step("ready");
    if (argc == 2) load(argv[1]);
    step("loaded");
    for (int i = 0; i < 6; i++) {
        void *taken = through_take(500), *zeroed = through_zeroed(640), *moved = through_take(90);
        moved = through_move(moved, 90, 180);
        if (i % 2 == 0) through_free(&through_take_site, taken, 500);
        if (i % 3 == 0) through_free(&through_zeroed_site, zeroed, 640);
        if (i == 5) through_free(&through_move_site, moved, 180);
    }
    tell_truth();
    return 0;
}
