/* Lives for a few milliseconds: shorter than any interval. */
#include "truth.h"

TAKES(brief_leak, "malloc", malloc(n))
TAKES(brief_churn, "malloc", malloc(n))
GIVES(brief_churn)

int main(void) {
    for (int i = 0; i < 11; i++) brief_leak(111);
    for (int i = 0; i < 5; i++) brief_churn_free(brief_churn(55), 55);
    print_truth();
    return 0;
}
