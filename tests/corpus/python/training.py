"""Losses of a training, each of which holds on to its step's activations. usage: training.py keep|item

keep: the losses are appended to a list as they are. item: the numbers of the last hundred are kept.
"""

from collections import deque

from corpus import Run, Site

SIZE = 64_000
site = Site("site_forward")


def site_forward():
    return bytearray(SIZE)


class Loss:
    __slots__ = ("graph", "value")

    def __init__(self, step):
        self.graph = site_forward()
        self.value = 1.0 / step
        site.took(SIZE + 1)

    def __del__(self):
        site.gave(SIZE + 1)


run = Run()
keep = run.variant == "keep"
if keep:
    site.rate = 10 * (SIZE + 1) * run.speed
run.begin(site)
losses, step = [] if keep else deque(maxlen=100), 0
for _ in run.ticks():
    for _ in range(run.due(10)):
        step += 1
        loss = Loss(step)
        losses.append(loss if keep else loss.value)
        if not keep:
            run.once("full")
run.end()
