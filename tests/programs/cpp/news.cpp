// Every form of new and delete. Each site is the caller of the function that contains the `new`: libstdc++ keeps
// no frame pointers, so that a walk by them alone may miss that function.
#include "../c/truth.h"
#include <new>

struct Widget { char body[88]; };
struct alignas(64) Wide { char body[192]; };

ALONE void *inner_new(size_t n) { return ::operator new(n); }
ALONE void *inner_new_array(size_t n) { return new char[n]; }
ALONE void *inner_object() { return new Widget; }
ALONE void *inner_aligned() { return new Wide; }
ALONE void *inner_nothrow(size_t n) { return ::operator new(n, std::nothrow); }
ALONE void inner_delete(void *block) { ::operator delete(block); asm volatile(""); }
ALONE void inner_delete_sized(void *block, size_t n) { ::operator delete(block, n); asm volatile(""); }
ALONE void inner_delete_array(void *block) { delete[] static_cast<char *>(block); asm volatile(""); }
ALONE void inner_delete_object(void *block) { delete static_cast<Widget *>(block); asm volatile(""); }
ALONE void inner_delete_aligned(void *block) { delete static_cast<Wide *>(block); asm volatile(""); }

#define NEWS(name, expression)                                                                     \
    SITE(name, "*");                                                                               \
    ALONE void *name(size_t n) { (void)n; void *block = (expression); took(&name##_site, block, n); return block; }

extern "C" {
NEWS(leak_new, inner_new(n))
NEWS(leak_new_array, inner_new_array(n))
NEWS(leak_object, inner_object())
NEWS(leak_aligned, inner_aligned())
NEWS(leak_nothrow, inner_nothrow(n))
}

static void give(truth_site &site, void *block, size_t n, void (*release)(void *)) {
    release(block);
    gave(&site, n);
}

int main() {
    ::operator delete(::operator new(1));
    step("ready");
    for (int i = 0; i < 8; i++) {
        leak_new(120);
        give(leak_new_site, leak_new(121), 121, inner_delete);
        void *sized = leak_new(122);
        inner_delete_sized(sized, 122);
        gave(&leak_new_site, 122);
        leak_new_array(240);
        give(leak_new_array_site, leak_new_array(241), 241, inner_delete_array);
        leak_object(sizeof(Widget));
        give(leak_object_site, leak_object(sizeof(Widget)), sizeof(Widget), inner_delete_object);
        leak_aligned(sizeof(Wide));
        give(leak_aligned_site, leak_aligned(sizeof(Wide)), sizeof(Wide), inner_delete_aligned);
        leak_nothrow(360);
        give(leak_nothrow_site, leak_nothrow(361), 361, inner_delete);
    }
    tell_truth();
    return 0;
}
