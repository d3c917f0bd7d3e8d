"""Small objects come and go, and after each step the interpreter's own account of its arenas and pools is written to a
file, as sys._debugmallocstats() puts it. Arguments: where to write, and "fork" to do all that in a child, or "leave" to
end with all that has grown."""

import os
import sys

FOLDER, HOW = sys.argv[1:3]
KEPT = []
OUTPUTS = [open(os.path.join(FOLDER, name), "w") for name in ("before", "grown", "dropped")]


def step(name):
    os.write(1, (name + "\n").encode())
    return os.read(0, 1)


def account(output):
    own = os.dup(2)
    os.dup2(output.fileno(), 2)
    sys._debugmallocstats()
    os.dup2(own, 2)
    os.close(own)


def grow():
    for number in range(100_000):
        KEPT.append((number, float(number), [number]))  # grows


def work():
    # Whatever the steps need is there.
    account(OUTPUTS[0])
    OUTPUTS[0].truncate(0)
    OUTPUTS[0].seek(0)
    step("ready %d" % os.getpid())
    account(OUTPUTS[0])
    grow()
    account(OUTPUTS[1])
    if HOW == "leave":
        os._exit(0)
    step("grown")
    KEPT.clear()
    account(OUTPUTS[2])
    step("dropped")


if HOW == "fork":
    import multiprocessing

    step("alone")
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
else:
    work()
