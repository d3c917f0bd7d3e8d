// Call chains of the shapes that C++ makes: exceptions on the way, the standard library in between, and
// operator new as the allocator. Build it in any way: what holds is what backtrace() says.
#include "../c/chain.h"
#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#define AFTER asm volatile("" : : : "memory")

namespace {

const char *shape;
uint64_t wanted;
void (*next)();

// Allocates by operator new: its frames stand between malloc's and this one.
extern "C" ALONE void take_by_new(const char *name, uint64_t depth) {
    chain *own = chain_new(name, "take_by_new", depth);
    own->count = chain_trace(own->frames, CHAIN_FRAMES);
    char *block = new char[own->bytes];
    asm volatile("" : : "r"(block) : "memory");
}
extern "C" ALONE void take_by_aligned_new(const char *name, uint64_t depth) {
    chain *own = chain_new(name, "take_by_aligned_new", depth);
    // The library asks for a multiple of the alignment.
    own->bytes *= 64;
    own->count = chain_trace(own->frames, CHAIN_FRAMES);
    void *block = ::operator new(own->bytes, std::align_val_t{64});
    asm volatile("" : : "r"(block) : "memory");
}
void (*take)(const char *, uint64_t) = take_here;

__attribute__((noinline)) void deeper() {
    if (chain_is(wanted)) take(shape, wanted);
    else next();
    AFTER;
}

struct Failure {
    int depth;
};
struct Other : std::runtime_error {
    Other() : std::runtime_error("other") {}
};

ALONE void throws_after(int depth) {
    if (depth == 0) throw Failure{1};
    throws_after(depth - 1);
    AFTER;
}

// Thrown and caught on the way down, then deeper.
ALONE void after_catch() {
    try {
        throws_after(3);
    } catch (const Failure &) {
    }
    deeper();
}

// Deeper while the exception is still being handled.
ALONE void in_handler() {
    try {
        throws_after(2);
    } catch (...) {
        deeper();
    }
}

// Deeper in a destructor, called while the stack is being unwound.
struct Deeper {
    ~Deeper() { deeper(); }
};
ALONE void unwinds_through() {
    Deeper guard;
    throws_after(1);
    AFTER;
}
ALONE void in_destructor() {
    try {
        unwinds_through();
    } catch (const Failure &) {
    }
}

// Thrown again from a handler, through a frame with a cleanup.
ALONE void rethrows() {
    try {
        throws_after(1);
    } catch (const Failure &) {
        throw Other{};
    }
}
ALONE void after_rethrow() {
    try {
        std::unique_ptr<int> held(new int(1));
        rethrows();
    } catch (const std::exception &) {
        deeper();
    }
}

// Through templates and the objects of the standard library.
ALONE void by_sort() {
    std::vector<int> numbers{3, 1, 2};
    bool done = false;
    std::sort(numbers.begin(), numbers.end(), [&](int left, int right) {
        if (!done) {
            done = true;
            deeper();
        }
        return left < right;
    });
    AFTER;
}
ALONE void by_function() {
    std::function<void()> call = [] { deeper(); };
    call();
    AFTER;
}
ALONE void by_for_each() {
    std::map<int, int> numbers{{1, 1}, {2, 2}};
    std::for_each(numbers.begin(), ++numbers.begin(), [](const auto &) { deeper(); });
    AFTER;
}
struct Base {
    virtual void call() = 0;
    virtual ~Base() = default;
};
struct Second {
    virtual void other() {}
    virtual ~Second() = default;
    long value = 2;
};
struct Derived : Second, virtual Base {
    void call() override { deeper(); }
};
ALONE void by_virtual() {
    Derived object;
    Base *base = &object;
    asm volatile("" : "+r"(base));
    base->call();
    AFTER;
}

const struct {
    const char *name;
    void (*level)();
} shapes[] = {
    {"after_catch", after_catch}, {"in_handler", in_handler}, {"in_destructor", in_destructor},
    {"after_rethrow", after_rethrow}, {"sort", by_sort}, {"function", by_function},
    {"for_each", by_for_each}, {"virtual", by_virtual},
};

void all(const char *name, void (*level)()) {
    for (uint64_t depth : {2, 20, 60, 115}) {
        shape = name;
        wanted = depth;
        next = level;
        next();
    }
}

}  // namespace

int main() {
    chain_prepare();
    // The first exception makes tables of its own.
    try {
        throws_after(0);
    } catch (const Failure &) {
    }
    step("ready");
    for (const auto &one : shapes) all(one.name, one.level);
    take = take_by_new;
    all("new", by_virtual);
    take = take_by_aligned_new;
    all("aligned_new", by_function);
    take = take_here;
    std::thread([] {
        shape = "std_thread";
        wanted = 20;
        next = by_sort;
        next();
    }).join();
    tell_truth();
    return 0;
}
