# malloc and free in pairs, below so many Python frames. argv: frames, the library of python_depth.c.
#
# Says "ready". For each line "MS" on stdin it works for MS milliseconds; then one line "PAIRS CPU_NS WALL_NS" is written.
# Ends when stdin does.
import ctypes
import sys
import time

# The interpreter is held meanwhile, as by an extension that allocates.
LIBRARY = ctypes.PyDLL(sys.argv[2])
LIBRARY.pairs.argtypes = [ctypes.c_uint64]
CHUNK = 1000
# The module's, and those of `down` and `loop` at the bottom.
LEVELS = int(sys.argv[1]) - 3


def loop(budget_ns):
    pairs = 0
    LIBRARY.keep()
    cpu, wall = time.process_time_ns(), time.monotonic_ns()
    while True:
        LIBRARY.pairs(CHUNK)
        pairs += CHUNK
        now = time.monotonic_ns()
        if now - wall >= budget_ns:
            return pairs, time.process_time_ns() - cpu, now - wall


def down(levels, budget_ns):
    return down(levels - 1, budget_ns) if levels else loop(budget_ns)


print("ready", flush=True)
for line in sys.stdin:
    print(*down(LEVELS, int(line) * 1_000_000), flush=True)
