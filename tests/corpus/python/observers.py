"""Views that look at a model, and are closed after a while. usage: observers.py strong|weak

strong: the model keeps each view's bound method, and with it the view. weak: it keeps them as ``weakref.WeakMethod``, which
says when its view is gone.
"""

import heapq
import random
import weakref

from corpus import Run, Site

SIZE = 4000
site = Site("site_text")
chance = random.Random(5)


def site_text():
    return bytearray(SIZE)


class View:
    def __init__(self):
        self.text = site_text()
        self.seen = 0
        site.took(SIZE + 1)

    def on_change(self):
        self.seen += 1

    def __del__(self):
        site.gave(SIZE + 1)


run = Run()
strong = run.variant == "strong"
if strong:
    site.rate = 40 * (SIZE + 1) * run.speed
run.begin(site)
observers, opened, number, changes = {}, [], 0, 0
for now in run.ticks():
    for _ in range(run.due(40)):
        number += 1
        view = View()
        if strong:
            observers[number] = view.on_change
        else:
            observers[number] = weakref.WeakMethod(view.on_change, lambda _, gone=number: observers.pop(gone))
        heapq.heappush(opened, (now + chance.expovariate(1 / run.part(0.03)), number, view))
        del view
    while opened and opened[0][0] <= now:
        heapq.heappop(opened)
    for _ in range(run.due(2)):
        for observer in list(observers.values()):
            observer() if strong else observer()()
    if not strong and now > run.part(0.2):
        run.once("full")
run.end()
