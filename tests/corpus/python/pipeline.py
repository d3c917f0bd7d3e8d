"""Generators one after another: what is read is measured, and a window of the last measures is looked at.
usage: pipeline.py tee|window

tee: the chunks were to be logged too, by a second iterator from ``itertools.tee`` that nobody reads: it keeps them all.
window: the last 64 chunks are kept.
"""

import collections
import itertools

from corpus import Run, Site

SIZE = 3000
site = Site("site_chunk")


def site_chunk():
    return bytes(bytearray(SIZE))


def read():
    while True:
        site.took(SIZE + 33)
        yield site_chunk()


def measure(chunks):
    for chunk in chunks:
        yield len(chunk), chunk


def windows(measures):
    window = collections.deque(maxlen=64)
    for measured in measures:
        if len(window) == 64:
            site.gave(SIZE + 33)
            run.once("full")
        window.append(measured)
        yield sum(size for size, _ in window)


def sums(measures):
    total = 0
    for size, _ in measures:
        total += size
        yield total


run = Run()
if run.variant == "tee":
    site.rate = 60 * (SIZE + 33) * run.speed
    chunks, to_log = itertools.tee(read())
    pipeline = sums(measure(chunks))
else:
    pipeline = windows(measure(read()))
run.begin(site)
for _ in run.ticks():
    for _ in range(run.due(60)):
        next(pipeline)
run.end()
