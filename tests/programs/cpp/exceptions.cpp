// Exceptions: through frames that stand between a malloc and its handler, and out of operator new
// itself. A return probe on a function that throws would kill the program.
#include "../c/truth.h"
#include <exception>
#include <new>

extern "C" {
TAKES(before_throw, "malloc", malloc(n))
GIVES(before_throw)
SITE(survives_bad_alloc, "*");
}

struct Failure { int depth; };

ALONE static void descend(int depth) {
    void *block = before_throw(130);
    if (depth == 0) throw Failure{depth};
    if (depth % 2 == 0) before_throw_free(block, 130);
    descend(depth - 1);
    asm volatile("");
}

ALONE static void *inner_new(size_t n) { return ::operator new(n); }
ALONE static void *inner_new_array(size_t n) { return new char[n]; }

extern "C" ALONE void survives_bad_alloc(size_t n) {
    void *block = inner_new(n); took(&survives_bad_alloc_site, block, n);
}

ALONE static int bad_alloc_is_thrown(void *(*get)(size_t)) {
    try {
        get(SIZE_MAX / 2 - 1);
    } catch (const std::bad_alloc &) {
        return 1;
    }
    return 0;
}

static int handler_runs;
static void give_up() {
    handler_runs++;
    throw Failure{-1};
}

int main() {
    try { throw Failure{0}; } catch (const Failure &) {}
    ::operator delete(::operator new(1));
    step("ready");
    for (int i = 0; i < 20; i++) {
        try {
            descend(6);
            truth_fail("nothing was thrown");
        } catch (const Failure &) {}
        if (!bad_alloc_is_thrown(inner_new) || !bad_alloc_is_thrown(inner_new_array))
            truth_fail("std::bad_alloc was not thrown");
        if (::operator new(SIZE_MAX / 2 - 1, std::nothrow) != nullptr) truth_fail("nothrow new succeeded");
        std::set_new_handler(give_up);
        try {
            inner_new(SIZE_MAX / 2 - 1);
            truth_fail("the new handler did not run");
        } catch (const Failure &) {}
        std::set_new_handler(nullptr);
        survives_bad_alloc(150);
    }
    fact("handler_runs", static_cast<uint64_t>(handler_runs));
    tell_truth();
    return 0;
}
