"""Answers that functools remembers. usage: cached.py method|lru

method: ``functools.cache`` on a method keeps each object that it was called on. lru: ``lru_cache(128)`` on a function.
"""

import functools

from corpus import Run, Site

SIZE = 6000
site = Site("site_load")


def site_load():
    return bytearray(SIZE)


class Data:
    __slots__ = ("data", "__weakref__")

    def __init__(self):
        self.data = site_load()
        site.took(SIZE + 1)

    def __del__(self):
        site.gave(SIZE + 1)

    @functools.cache
    def checksum(self):
        return self.data[5]


@functools.lru_cache(128)
def by_key(_key):
    return Data()


run = Run()
if run.variant == "method":
    site.rate = 60 * (SIZE + 1) * run.speed
run.begin(site)
key = 0
for _ in run.ticks():
    for _ in range(run.due(60)):
        key += 1
        if run.variant == "method":
            Data().checksum()
        else:
            by_key(key)
            if key == 129:
                run.once("full")
run.end()
