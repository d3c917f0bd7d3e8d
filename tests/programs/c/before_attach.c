/* Blocks from before the attach are freed, moved and dropped after it; NULL is freed. */
#include "truth.h"

SITE(moved, "realloc");
ALONE void *moved(void *old, size_t n) {
    void *block = realloc(old, n); took(&moved_site, block, n);
    return block;
}
TAKES(kept, "malloc", malloc(n))
GIVES(kept)

static void *volatile none;

int main(void) {
    void *early[20];
    for (int i = 0; i < 20; i++) early[i] = malloc(100);
    step("ready");
    for (int i = 0; i < 6; i++) free(early[i]);
    expect_ledger("free_unknown", 6);
    for (int i = 6; i < 8; i++) early[i] = moved(early[i], 300);
    expect_ledger("realloc_unknown", 2);
    for (int i = 0; i < 5; i++) free(none);
    for (int i = 0; i < 4; i++) kept(40);
    kept_free(kept(40), 40);
    tell_truth();
    return 0;
}
