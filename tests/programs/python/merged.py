"""Keeps ten blocks of one line, then waits until its input ends. The first argument is their size."""

import sys

size = int(sys.argv[1])
kept = []


def keep():
    kept.append(bytearray(size))  # the line


print("ready", flush=True)
sys.stdin.buffer.raw.read(1)
for _ in range(10):
    keep()
print("kept", flush=True)
sys.stdin.buffer.raw.read(1)
