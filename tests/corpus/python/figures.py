"""Figures, each a list of large objects that pyplot's registry knows. usage: figures.py open|closed

open: nobody closes them. closed: each is closed once it is drawn.
"""

from corpus import Run, Site

PARTS, SIZE = 3, 40_000
site = Site("site_canvas")
figures = {}


def site_canvas():
    return bytes(bytearray(SIZE))


class Figure:
    def __init__(self, number):
        self.number = number
        self.parts = []
        for _ in range(PARTS):
            self.parts.append(site_canvas())
            site.took(SIZE + 33)
        figures[number] = self

    def close(self):
        del figures[self.number]
        for _ in self.parts:
            site.gave(SIZE + 33)
        self.parts.clear()


run = Run()
opened = run.variant == "open"
if opened:
    site.rate = 6 * PARTS * (SIZE + 33) * run.speed
run.begin(site)
number = 0
for _ in run.ticks():
    for _ in range(run.due(6)):
        number += 1
        figure = Figure(number)
        if not opened:
            figure.close()
            run.once("full")
run.end()
