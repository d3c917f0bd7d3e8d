"""Keeps instances of a class, as many as its argument says. Waits at "ready" and at "kept"."""
import gc
import sys


class Registered:
    def __init__(self, number):
        self.number = number
        self.self = self


gc.disable()
kept = []
print("ready", flush=True)
sys.stdin.read(1)
kept.extend(Registered(number) for number in range(int(sys.argv[1])))
print("kept", flush=True)
sys.stdin.read(1)
