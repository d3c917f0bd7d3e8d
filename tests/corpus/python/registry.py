"""Sessions in a registry. usage: registry.py keep|remove

keep: a session that has ended stays in it. remove: it is taken out.
"""

import random

from corpus import Run, Site

SIZE = 5000
site = Site("site_session")
chance = random.Random(11)


class Session:
    __slots__ = ("number", "buffer")

    def __init__(self, number):
        self.number = number
        self.buffer = self.site_session()
        site.took(SIZE + 1)

    def site_session(self):
        return bytearray(SIZE)

    def __del__(self):
        site.gave(SIZE + 1)


run = Run()
keep = run.variant == "keep"
if keep:
    site.rate = 50 * (SIZE + 1) * run.speed
run.begin(site)
registry, ends, number = {}, [], 0
for now in run.ticks():
    for _ in range(run.due(50)):
        number += 1
        registry[number] = Session(number)
        ends.append((now + chance.expovariate(1 / run.part(0.05)), number))
    if not keep:
        over = [end for end in ends if end[0] <= now]
        if over:
            ends = [end for end in ends if end[0] > now]
            for _, gone in over:
                del registry[gone]
        if now > run.part(0.25):
            run.once("full")
run.end()
