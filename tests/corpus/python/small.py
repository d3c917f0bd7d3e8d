"""Small objects that stay: Python takes them from arenas, and malloc sees none of them. usage: small.py"""

from corpus import Run, Site

# A tuple of three is 64 bytes with what the collector needs, and a float 24, rounded up to 32.
SIZE = 64 + 3 * 32
site = Site("site_point")
points = [None] * 2_000_000
count = 0


def site_point(n):
    return (n + 0.25, n + 0.5, n + 0.75)


run = Run()
site.rate = 6000 * SIZE * run.speed
run.begin(site)
for _ in run.ticks():
    for n in range(run.due(6000)):
        points[count] = site_point(n)
        count += 1
        site.took(SIZE)
run.end()
