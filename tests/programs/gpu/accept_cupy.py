"""Ten arrays of 5 MiB in CuPy's pool, which gets its memory by cudaMalloc of a runtime library linked into it."""

import cupy

from accept_steps import truth, wait_at

keep = []


def leaky():
    keep.append(cupy.empty(5 << 20, dtype=cupy.uint8))


def main():
    wait_at("ready")
    for _ in range(10):
        leaky()
    cupy.cuda.Device().synchronize()
    truth(bytes=cupy.get_default_memory_pool().total_bytes())


main()
