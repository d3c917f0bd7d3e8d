// A program of its own that runs Python by libpython. Py_BytesMain: Include/pylifecycle.h, from 3.8.
int Py_BytesMain(int argc, char **argv);

int main(int argc, char **argv)
{
    return Py_BytesMain(argc, argv);
}
