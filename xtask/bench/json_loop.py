# A document encoded to JSON and decoded again, in a loop.
#
# Says "ready". For each line "MS" on stdin it loops for MS milliseconds; then one line "LOOPS CPU_NS
# WALL_NS" is written. Ends when stdin does. Under PYTHONMALLOC=malloc every object is a block of malloc.
import json
import sys
import time

DOCUMENT = {
    f"record-{number}": {
        "id": number,
        "name": f"name of {number}",
        "scores": [number * 0.5, number * 1.5, number + 7],
        "tags": [f"tag-{number % 7}", f"tag-{number % 11}"],
    }
    for number in range(100)
}


def loop(budget_ns):
    loops = 0
    cpu, wall = time.process_time_ns(), time.monotonic_ns()
    while True:
        json.loads(json.dumps(DOCUMENT))
        loops += 1
        now = time.monotonic_ns()
        if now - wall >= budget_ns:
            return loops, time.process_time_ns() - cpu, now - wall


print("ready", flush=True)
for line in sys.stdin:
    print(*loop(int(line) * 1_000_000), flush=True)
