"""Small objects that stay: Python takes them from arenas, and malloc sees none of them. usage: small.py"""

from corpus import Run, Site

# A float is 24 bytes, rounded up. Of one kind of object, arenas come by one way.
SIZE = 32
site = Site("site_point")
points = [None] * 2_000_000
count = 0


def site_point(n):
    return n + 0.25


run = Run()
site.rate = 15000 * SIZE * run.speed
run.begin(site)
for _ in run.ticks():
    for n in range(run.due(15000)):
        points[count] = site_point(n)
        count += 1
        site.took(SIZE)
run.end()
