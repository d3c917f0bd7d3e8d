"""What the corpus's programs in Python share: how they begin and end, pacing, and the truth about their sites.

It does what ``c/corpus.h`` does, which says how programs and whoever runs them speak. Blocks of more than 512 bytes come from
malloc; smaller ones from Python's arenas, which are one block each.
"""

import os
import sys
import time

TICK_S = 0.01


def _clock():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _rss_bytes():
    with open("/proc/self/smaps_rollup", "rb") as rollup:
        for line in rollup:
            if line.startswith(b"Rss:"):
                return int(line.split()[1]) * 1024
    return -1


class Site:
    """What a site holds."""

    __slots__ = ("name", "bytes", "blocks", "rate", "sums", "most")

    def __init__(self, name, rate=None):
        self.name, self.bytes, self.blocks, self.rate = name, 0, 0, rate
        self.sums, self.most = [0.0] * 5, 0.0

    def took(self, size):
        self.bytes += size
        self.blocks += 1

    def gave(self, size):
        self.bytes -= size
        self.blocks -= 1

    def look(self, t):
        sums, b = self.sums, float(self.bytes)
        sums[0] += 1
        sums[1] += t
        sums[2] += b
        sums[3] += t * t
        sums[4] += t * b
        self.most = max(self.most, b)

    def truth(self):
        n, t, b, tt, tb = self.sums
        below = n * tt - t * t
        slope = f"{(n * tb - t * b) / below:.1f}" if below > 0 else "null"
        rate = "null" if self.rate is None else f"{self.rate:.1f}"
        return (
            f'{{"name":"{self.name}","bytes":{self.bytes},"blocks":{self.blocks},'
            f'"slope_bytes_per_s":{slope},"rate_bytes_per_s":{rate},"most_bytes":{self.most:.1f}}}'
        )


class Run:
    """A run: ``for _ in run.ticks(): ...; run.end()``."""

    def __init__(self):
        self.seconds, self.speed, self.variant = 30.0, 1.0, ""
        words = iter(sys.argv[1:])
        for word in words:
            if word == "--seconds":
                self.seconds = float(next(words))
            elif word == "--speed":
                self.speed = float(next(words))
            else:
                self.variant = word
        self.sites, self._said, self._dues = [], set(), {}

    def begin(self, *sites):
        self.sites = sites
        print(f'{{"ready":true,"pid":{os.getpid()},"t":{_clock():.6f},"rss_bytes":{_rss_bytes()}}}', flush=True)
        sys.stdin.readline()
        self.start = time.monotonic()
        self.once("begin")

    def once(self, event):
        """Says it once."""
        if event not in self._said:
            self._said.add(event)
            print(f'{{"t":{_clock():.6f},"event":"{event}","rss_bytes":{_rss_bytes()}}}', flush=True)

    def now(self):
        return time.monotonic() - self.start

    def part(self, part):
        return part * self.seconds

    def due(self, per_s):
        """How many of what comes ``per_s`` times a second at speed 1 are due now."""
        due = int(per_s * self.speed * self.now()) - self._dues.get(per_s, 0)
        self._dues[per_s] = self._dues.get(per_s, 0) + due
        return due

    def ticks(self):
        at = 0.0
        while True:
            now = self.now()
            if now >= self.seconds:
                return
            if now > self.part(0.5):
                for site in self.sites:
                    site.look(now - self.part(0.75))
            at = max(at + TICK_S, now)
            time.sleep(max(0.0, at - self.now()))
            yield now

    def end(self):
        sites = ",".join(site.truth() for site in self.sites)
        print(f'{{"t":{_clock():.6f},"event":"end","rss_bytes":{_rss_bytes()},"sites":[{sites}]}}', flush=True)
        sys.stdin.readline()
        os._exit(0)
