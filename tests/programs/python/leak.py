"""A CPython program with native leaks of known sizes and counts: 40 bytes objects, 30 bytearrays and 25
blocks that ctypes takes from malloc. Sizes above 512 bytes pass pymalloc and reach malloc."""

import ctypes
import gc
import json
import os
import sys

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
KEPT = []


def step(name):
    os.write(1, (name + "\n").encode())
    return os.read(0, 1)


def leak_bytes():
    KEPT.append(bytes(10000))


def leak_bytearray():
    KEPT.append(bytearray(20000))


def leak_ctypes():
    KEPT.append(libc.malloc(7777))


def churn():
    bytes(10000)
    bytearray(20000)
    libc.free(libc.malloc(7777))


def main():
    churn()
    gc.collect()
    step("ready")
    for round in range(40):
        leak_bytes()
        if round < 30:
            leak_bytearray()
        if round < 25:
            leak_ctypes()
        churn()
    header = sys.getsizeof(b"")
    truth = {
        "pid": os.getpid(),
        "sites": {},
        "ledger": {},
        # Sizes as malloc sees them, and how many blocks of each stay.
        "facts": {"bytes_size": header + 10000, "bytearray_size": 20001, "ctypes_size": 7777},
    }
    step(json.dumps(truth))


main()
