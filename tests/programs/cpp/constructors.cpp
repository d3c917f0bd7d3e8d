// Static objects that allocate before main.
#include "../c/truth.h"

extern "C" { SITE(in_static_object, "*"); }

ALONE static void *inner(size_t n) { return new char[n]; }
extern "C" ALONE void in_static_object(size_t n) {
    void *block = inner(n); took(&in_static_object_site, block, n);
}

struct Early {
    Early() { for (int i = 0; i < 5; i++) in_static_object(222); }
};
static Early first, second;

int main() {
    tell_truth();
    return 0;
}
