"""What the leak programs share: the variant, the pace, and the steps at which they wait for the test.

argv: `leak` or `fixed`, and for how many seconds to work. A program warms up, says "ready" and waits; works at a steady
pace; says "done" with the number of units since "ready" and waits; and ends with exit code 7, which nothing else gives.

Each program begins with a line `# leak: {...}`: `function` is where the memory that leaks is allocated, `type` the class
of which there are ever more objects, if the garbage collector knows of it, and `objects` how many more a unit of work.
Where the allocating function is a library's, `file` is its file, and `through` the program's function on the way there. The
lines that allocate are marked `# leaks`, the one on the way `# through`.
What a program prints depends on nothing but its arguments.
"""
import json
import os
import sys
import time

EXIT_CODE = 7
TICK_S = 0.02
WARM_UP_TICKS = 25


def leaking():
    """Whether this is the variant that leaks."""
    return {"leak": True, "fixed": False}[sys.argv[1]]


def step(line):
    """Says where the program is and waits for the test."""
    os.write(1, (line + "\n").encode())
    os.read(0, 1)


def main(work, units_a_tick, facts=dict):
    """Calls `work(number)` with rising numbers, `units_a_tick` every 20 ms; `facts()` goes into the last line."""
    ticks = int(float(sys.argv[2]) / TICK_S)
    number = pace(work, 0, units_a_tick, WARM_UP_TICKS)
    step("ready")
    last = pace(work, number, units_a_tick, ticks)
    step("done " + json.dumps({"units": last - number, **facts()}))
    sys.exit(EXIT_CODE)


def pace(work, number, units_a_tick, ticks):
    due = time.monotonic()
    for _ in range(ticks):
        for _ in range(units_a_tick):
            work(number)
            number += 1
        # A machine that falls behind is not made to catch up: the pace is an upper bound.
        due = max(due + TICK_S, time.monotonic())
        time.sleep(due - time.monotonic() if due > time.monotonic() else 0)
    return number
