"""Objects in cycles, which go when Python's collector comes: a sawtooth. usage: collected.py"""

import gc

from corpus import Run, Site

SIZE = 3000
site = Site("site_payload")


def site_payload():
    return bytearray(SIZE)


class Peer:
    def __init__(self):
        self.payload = site_payload()
        self.peer = None
        site.took(SIZE + 1)

    def __del__(self):
        site.gave(SIZE + 1)


run = Run()
# What lives since the import is not looked at again; and the saw has teeth of a tenth of the time.
gc.collect()
gc.freeze()
gc.set_threshold(int(2 * 100 * run.speed * run.part(0.1)), 5, 5)
run.begin(site)
for now in run.ticks():
    for _ in range(run.due(50)):
        one, other = [Peer() for _ in range(2)]
        one.peer, other.peer = other, one
    if now > run.part(0.3):
        run.once("full")
run.end()
