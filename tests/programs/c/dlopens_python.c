// A program that comes to Python late: it opens libpython, its first argument, when it is told to, and is the
// interpreter from then on. Py_BytesMain: Include/pylifecycle.h, from 3.8.
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char byte;
    if (argc < 2 || write(1, "alone\n", 6) != 6 || read(0, &byte, 1) != 1)
        return 2;
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
    int (*run)(int, char **) = library ? (int (*)(int, char **))dlsym(library, "Py_BytesMain") : NULL;
    if (!run) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    argv[1] = argv[0];
    return run(argc - 1, argv + 1);
}
