# leak: {"function": "first_samples"}
"""A view of three numbers keeps the whole array that it shows. Fixed: the three numbers are copied."""
import collections

import numpy

import steady

KEPT = [] if steady.leaking() else collections.deque(maxlen=50)


def first_samples(number):
    signal = numpy.empty(8192)  # leaks
    signal.fill(number)
    KEPT.append(signal[:3] if steady.leaking() else signal[:3].copy())


steady.main(first_samples, 4)
