"""Small objects that stay: Python takes them from arenas, and malloc sees none of them. usage: small.py"""

from corpus import Run, Site

# 40 bytes and the object's 33, rounded up: a size of which nothing else is taken all the time, so that arenas come this way.
SIZE = 80
site = Site("site_point")
points = [None] * 2_000_000
count = 0


def site_point():
    return bytes(40)


run = Run()
site.rate = 8000 * SIZE * run.speed
run.begin(site)
for _ in run.ticks():
    for _ in range(run.due(8000)):
        points[count] = site_point()
        count += 1
        site.took(SIZE)
run.end()
