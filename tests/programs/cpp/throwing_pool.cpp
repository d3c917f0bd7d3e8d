// A custom allocator that throws when it has nothing left, for --alloc: the tracer must not kill it.
#include "../c/truth.h"

static char arena[1 << 20];
static size_t used;
struct Exhausted {};

extern "C" {
ALONE void *pool_get(size_t size, int exhausted) {
    if (exhausted) throw Exhausted{};
    void *block = arena + used;
    used += (size + 15) / 16 * 16;
    return block;
}
ALONE void pool_put(void *block) { asm volatile("" : : "r"(block)); }
SITE(use_pool, "pool_get");
ALONE void use_pool(size_t n, int exhausted) {
    void *block = pool_get(n, exhausted); took(&use_pool_site, block, n);
    if (n % 2 == 0) {
        pool_put(block);
        gave(&use_pool_site, n);
    }
}
}

int main() {
    try { throw Exhausted{}; } catch (const Exhausted &) {}
    int thrown = 0;
    step("ready");
    for (int i = 0; i < 30; i++) {
        try {
            use_pool(100 + i, i % 3 == 0);
        } catch (const Exhausted &) {
            thrown++;
        }
    }
    fact("thrown", thrown);
    tell_truth();
    return 0;
}
