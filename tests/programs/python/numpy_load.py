"""Arrays that come and go through numpy, and some that stay. Waits at "ready", and at "done"."""
import sys

import numpy


def step(name):
    print(name, flush=True)
    sys.stdin.read(1)


def work(kept):
    for size in range(200, 1200):
        array = numpy.arange(size * 8, dtype=float)
        product = numpy.outer(array[:64], array[:64]) @ numpy.ones((64, 64))
        numpy.linalg.solve(product + numpy.eye(64) * size * 1e9, array[:64])
        numpy.sort(array[::-1])
        numpy.fft.rfft(array)
        if size % 100 == 0:
            kept.append(product)


step("ready")
kept = []
work(kept)
step("done")
