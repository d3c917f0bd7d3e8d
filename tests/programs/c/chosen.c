/* A library with a function whose code is chosen by a resolver when it is first called, if calls are bound lazily.
 * The resolver calls back. */
void (*on_choice)(void);
static int chosen(int number) { return number + 1; }
static int (*choose(void))(int) {
    if (on_choice) on_choice();
    return chosen;
}
__attribute__((ifunc("choose"))) int pick(int number);
