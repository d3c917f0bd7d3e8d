"""Keeps device memory in a list: a Python service whose own tools see nothing. On a runtime library by its name."""

import ctypes
import os

cuda = ctypes.CDLL("libcudart.so.12")
kept = []


def take(size):
    pointer = ctypes.c_void_p()
    result = cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size))
    assert result == 0, result
    return pointer


def keep(size):
    kept.append(take(size))


def balanced(size):
    assert cuda.cudaFree(take(size)) == 0


print("ready", flush=True)
os.read(0, 1)
assert cuda.cudaSetDevice(0) == 0
for _ in range(7):
    keep(3 << 20)
for _ in range(50):
    balanced(1 << 20)
print("done", flush=True)
os.read(0, 1)
