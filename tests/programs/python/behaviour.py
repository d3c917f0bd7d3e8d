"""What a traced program must do as if it were not: its output, its exceptions and its end. argv: what to do. Waits at
"ready", and at "waiting" for a signal."""
import ctypes
import functools
import gc
import os
import re
import signal
import sys
import traceback

libc = ctypes.CDLL(None)


def step(name):
    os.write(1, (name + "\n").encode())
    return os.read(0, 1)


def fails(value):
    keep = bytes(5000)
    raise ValueError(f"of {value!r}, {len(keep)}")


def through_generator():
    try:
        yield fails("generator")
    finally:
        print("closed")


async def coroutine():
    return fails("coroutine")


class Raises:
    def __del__(self):
        fails("__del__")

    def __hash__(self):
        return fails("__hash__")

    def __enter__(self):
        return self

    def __exit__(self, *why):
        print("left by", why[0])
        raise KeyError("in its place")


def exceptions():
    """Exceptions through C code of all sorts, with their tracebacks."""

    def within():
        with Raises():
            fails("with")

    for act in (
        lambda: sorted([1, 2], key=fails),
        lambda: list(map(fails, [1])),
        lambda: functools.reduce(lambda a, b: fails(b), [1, 2]),
        lambda: re.sub("a", fails, "a") and None,
        lambda: list(through_generator()),
        lambda: coroutine().send(None),
        lambda: {Raises(): 1},
        lambda: exec("fails(1)"),
        lambda: functools.lru_cache(fails)(2),
        lambda: type("Made", (), {"__init_subclass__": classmethod(fails)}) and fails(3),
        lambda: bytes(1 << 62),
        lambda: libc.strlen("x", "y", object()),
        within,
    ):
        try:
            act()
        except BaseException:
            text = traceback.format_exc()
            # Addresses differ from run to run.
            print(re.sub("0x[0-9a-f]+", "0x", text), flush=True)


def unraisable():
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    numbers = (ctypes.c_int * 2)(2, 1)
    libc.qsort(numbers, 2, 4, callback(lambda a, b: fails("qsort")))
    Raises()
    gc.collect()


def depth():
    """How deep it can go does not change."""

    def down(levels):
        bytes(1000)
        return down(levels + 1) if levels < 100000 else 0

    reached = []

    def through_c(levels):
        reached.append(levels)
        return sorted([1], key=lambda _: through_c(levels + 1))

    for act in (down, through_c):
        try:
            act(0)
        except RecursionError as error:
            print(type(error), len(traceback.extract_tb(error.__traceback__)), len(reached))


def output():
    """Much of it, and what it says of the interpreter's own state."""
    for number in range(2000):
        print(number, "x" * (number % 70), len(bytes(number * 10)))
    print(gc.get_threshold(), gc.isenabled(), sys.getswitchinterval(), sys.gettrace(), sys.getprofile())
    print(len(os.listdir("/proc/self/task")), sys.getrecursionlimit(), sorted(os.environ) == sorted(dict(os.environ)))
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGTERM))


def handled():
    def handler(number, frame):
        print("handler in", frame.f_code.co_name, flush=True)
        fails("handler")

    signal.signal(signal.SIGTERM, handler)
    try:
        step("waiting")
    except ValueError as error:
        print(error)
    sys.exit(9)


def interrupted():
    # The line that it comes at is not always the same.
    sys.excepthook = lambda kind, value, at: print("unhandled", kind, value, flush=True)
    try:
        step("waiting")
    finally:
        print("finally", flush=True)


CASES = {
    "exceptions": exceptions,
    "unraisable": unraisable,
    "depth": depth,
    "output": output,
    "handled": handled,
    "interrupted": interrupted,
    "unhandled": lambda: sorted([1], key=fails),
    "code": lambda: sys.exit(7),
    "text": lambda: sys.exit("a text for stderr"),
    "at once": lambda: os._exit(5),
    "abort": os.abort,
}

# The default prints addresses.
sys.unraisablehook = lambda what: print("ignored", what.exc_type, what.exc_value, flush=True)
step("ready")
CASES[sys.argv[1]]()
