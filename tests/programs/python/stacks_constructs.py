"""One allocation of a unique size in every construct of the language that leads C or Python into Python. argv: the
file for the stacks, and a folder for the modules that are made. Waits at "ready" and at "done"."""
import asyncio
import atexit
import collections
import contextlib
import contextvars
import ctypes
import dataclasses
import functools
import gc
import importlib
import importlib.util
import itertools
import json
import operator
import os
import pickle
import py_compile
import re
import signal
import sqlite3
import sys
import threading
import types
import weakref
import _thread
from concurrent.futures import ThreadPoolExecutor

from stacks_truth import BYTES, case, here, keep, locked_malloc, malloc, note_names, size, step, write

CASES = []


def construct(function):
    CASES.append(function)
    return function


# --- calls from Python


@construct
def plain():
    malloc(size()), here()


@construct
def with_the_lock():
    locked_malloc(size()), here()


@construct
def objects():
    keep(bytes(size()), here(BYTES))
    keep(bytes(size()), here(BYTES))


@construct
def nested():
    def one():
        def two():
            def three():
                malloc(size()), here()

            three()

        two()

    one()


@construct
def methods():
    class Thing:
        def method(self):
            self.other()

        def other(self):
            type(self).of_class()

        @classmethod
        def of_class(cls):
            cls.of_nothing()

        @staticmethod
        def of_nothing():
            malloc(size()), here()

    Thing().method()


@construct
def lambdas():
    (lambda: (lambda: (malloc(size()), here()))())()


@construct
def comprehensions():
    [(malloc(size()), here()) for _ in range(2)]
    {(malloc(size()), here()) for _ in range(2)}
    {number: (malloc(size()), here()) for number in range(2)}
    [[(malloc(size()), here()) for _ in range(2)] for _ in range(2)]
    list((malloc(size()), here()) for _ in range(2))
    sum(1 for _ in range(2) if (malloc(size()), here()))


@construct
def generators():
    def count():
        malloc(size()), here()
        got = yield 1
        malloc(size()), here()
        while got:
            malloc(size()), here()
            got = yield got
        try:
            yield
        except KeyError:
            malloc(size()), here()
        try:
            yield
        finally:
            malloc(size()), here()

    def through():
        result = yield from count()
        return result

    def further():
        yield from through()

    for make in (count, through, further):
        generator = make()
        next(generator)
        generator.send(2)
        generator.send(0)
        generator.throw(KeyError("asked for"))
        generator.close()


@construct
def generators_in_c():
    def numbers():
        for number in range(2):
            malloc(size()), here()
            yield number

    list(numbers())
    sum(numbers())
    dict(zip(numbers(), numbers()))
    "".join(map(str, numbers()))
    list(itertools.chain(numbers(), numbers()))


@construct
def coroutines_by_hand():
    class Awaited:
        def __await__(self):
            malloc(size()), here()
            yield
            malloc(size()), here()

    async def inner():
        await Awaited()
        malloc(size()), here()

    async def outer():
        await inner()

    running = outer()
    running.send(None)
    try:
        running.send(None)
    except StopIteration:
        pass


@construct
def asynchronous():
    async def leaf(number):
        malloc(size()), here()
        await asyncio.sleep(0)
        malloc(size()), here()
        return number

    async def numbers():
        for number in range(2):
            malloc(size()), here()
            yield number
            await asyncio.sleep(0)

    class Around:
        async def __aenter__(self):
            malloc(size()), here()

        async def __aexit__(self, *why):
            malloc(size()), here()

    async def work():
        async with Around():
            await leaf(0)
            await asyncio.gather(leaf(1), leaf(2))
            async for _ in numbers():
                malloc(size()), here()
            [(malloc(size()), here()) async for _ in numbers()]
        task = asyncio.ensure_future(leaf(3))
        await task
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        loop.call_soon(lambda: (malloc(size()), here(), done.set_result(None)))
        await done
        await loop.run_in_executor(None, in_a_pool)

    def in_a_pool():
        case("asynchronous")
        malloc(size()), here()

    asyncio.run(work())


@construct
def decorators():
    def plain(function):
        malloc(size()), here()

        @functools.wraps(function)
        def wrapper(*arguments, **named):
            return function(*arguments, **named)

        return wrapper

    def of(argument):
        malloc(size()), here()
        return plain

    @plain
    @of("x")
    def decorated(first, *, second):
        malloc(size()), here()

    decorated(1, second=2)


@construct
def class_bodies():
    class Meta(type):
        def __new__(meta, name, bases, names):
            malloc(size()), here()
            return super().__new__(meta, name, bases, names)

        def __call__(cls, *arguments):
            malloc(size()), here()
            return super().__call__(*arguments)

    class Named:
        def __set_name__(self, owner, name):
            malloc(size()), here()

    class Outer(metaclass=Meta):
        malloc(size()), here()
        field = Named()

        class Inner:
            malloc(size()), here()

        def __init_subclass__(cls):
            malloc(size()), here()

        def __new__(cls, *arguments):
            malloc(size()), here()
            return super().__new__(cls)

        def __init__(self, *arguments):
            malloc(size()), here()

    class Derived(Outer):
        pass

    Derived(1)


@construct
def properties():
    class Thing:
        @property
        def plain(self):
            malloc(size()), here()

        @plain.setter
        def plain(self, value):
            malloc(size()), here()

        @functools.cached_property
        def once(self):
            malloc(size()), here()

        def __getattr__(self, name):
            malloc(size()), here()

        def __getitem__(self, key):
            malloc(size()), here()

        def __call__(self, *arguments, **named):
            malloc(size()), here()

        def __add__(self, other):
            malloc(size()), here()

        def __eq__(self, other):
            malloc(size()), here()
            return True

        def __hash__(self):
            malloc(size()), here()
            return 1

        def __len__(self):
            malloc(size()), here()
            return 1

        def __iter__(self):
            malloc(size()), here()
            return iter(())

        def __contains__(self, item):
            malloc(size()), here()
            return True

        def __str__(self):
            malloc(size()), here()
            return ""

    thing = Thing()
    thing.plain
    thing.plain = 1
    thing.once
    thing.absent
    thing[1]
    thing(1)
    thing(*[1], **{"a": 2})
    thing + 1
    thing == 1
    {thing: 1}[thing]
    len(thing)
    list(thing)
    1 in thing
    str(thing)
    f"{thing}"
    if thing:
        pass


@construct
def finalizers():
    class Dies:
        def __del__(self):
            malloc(size()), here()

    def last():
        thing = Dies()
        thing = None

    def at_return():
        thing = Dies()

    last()
    at_return()
    [Dies()].clear()
    cycle = Dies()
    cycle.itself = cycle
    del cycle
    gc.collect()

    class Watched:
        pass

    watched = Watched()
    watch = weakref.ref(watched, lambda _: (malloc(size()), here()))
    del watched
    other = Watched()
    weakref.finalize(other, lambda: (malloc(size()), here()))
    del other
    keep(watch)


# --- calls from C


@construct
def callbacks():
    def key(value):
        malloc(size()), here()
        return value

    sorted([2, 1], key=key)
    [2, 1].sort(key=lambda value: (malloc(size()), here(), value)[2])
    max([1, 2], key=key)
    list(map(key, [1]))
    list(filter(key, [1]))
    functools.reduce(lambda a, b: (malloc(size()), here()) and 0, [1, 2, 3])
    re.sub("a", lambda match: (malloc(size()), here()) and "b", "xaxa")
    functools.partial(key, 1)()
    functools.partial(functools.partial(key), 1)()
    sorted([2, 1], key=functools.cmp_to_key(lambda a, b: (malloc(size()), here()) and 1))
    operator.methodcaller("call", 1)(types.SimpleNamespace(call=key))
    contextvars.copy_context().run(key, 1)
    iter_ = iter(lambda: (malloc(size()), here()) and 0, 0)
    list(iter_)
    collections.defaultdict(lambda: (malloc(size()), here()))["x"]
    json.dumps(object(), default=lambda thing: (malloc(size()), here()) and 1)
    json.loads('{"a": 1}', object_hook=lambda thing: (malloc(size()), here()) and thing)
    functools.lru_cache(4)(key)(1)
    functools.singledispatch(key)(1)


@construct
def callbacks_of_modules():
    class Packed:
        def __reduce__(self):
            malloc(size()), here()
            return unpacked, (1,)

    pickle.loads(pickle.dumps(Packed()))
    base = sqlite3.connect(":memory:")
    base.create_function("called", 1, lambda value: (malloc(size()), here()) and 1)
    base.execute("select called(1)").fetchall()
    base.close()
    import pyexpat

    parser = pyexpat.ParserCreate()
    parser.StartElementHandler = lambda *what: (malloc(size()), here())
    parser.Parse("<a><b/></a>", True)


def unpacked(value):
    malloc(size()), here()
    return value


@construct
def foreign_callbacks():
    libc = ctypes.CDLL(None)
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

    def order(a, b):
        malloc(size()), here()
        return 0

    def deeper(a, b):
        inner = (ctypes.c_int * 2)(1, 2)
        libc.qsort(inner, 2, 4, compare(order))
        malloc(size()), here()
        return 0

    numbers = (ctypes.c_int * 3)(3, 2, 1)
    libc.qsort(numbers, 3, 4, compare(order))
    libc.qsort(numbers, 3, 4, compare(deeper))


@construct
def signals():
    def handler(number, frame):
        malloc(size()), here()

    old = signal.signal(signal.SIGUSR1, handler)
    signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, old)


# --- lines


@construct
def adjacent_lines():
    def call(*things, **named):
        malloc(size()), here()
        return things

    call()
    call()
    call(
        call(),
        call(),
    )
    call(call(call(call()))); call()
    call(
        1,
        [
            call(2)
            for _ in range(2)
        ],
        *call(),
        **{
            "a": call()
        } if not call() else {},
    )
    malloc(size()), here()
    (
        malloc(size()), here()
    )
    (call()
        or call())
    x = call()[
        0:
    ] if call() else call()
    assert call() == (), call()
    while call() != ():
        pass
    for _ in (call(), call()):
        call()
    return call(
    )


@construct
def handlers():
    def raises():
        malloc(size()), here()
        raise KeyError("asked for")

    try:
        raises()
    except KeyError as error:
        malloc(size()), here()
        try:
            raises()
        except KeyError:
            malloc(size()), here()
        finally:
            malloc(size()), here()
    else:
        malloc(size()), here()
    finally:
        malloc(size()), here()
    for _ in range(2):
        try:
            continue
        finally:
            malloc(size()), here()

    def returns():
        try:
            return 1
        finally:
            malloc(size()), here()

    returns()


@construct
def contexts():
    class Around:
        def __enter__(self):
            malloc(size()), here()
            return self

        def __exit__(self, *why):
            malloc(size()), here()
            return True

    @contextlib.contextmanager
    def made():
        malloc(size()), here()
        try:
            yield
        finally:
            malloc(size()), here()

    with Around(), made():
        malloc(size()), here()
    with Around():
        raise KeyError("asked for")
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: (malloc(size()), here()))
        stack.enter_context(made())

    @made()
    def decorated():
        malloc(size()), here()

    decorated()


@construct
def made_methods():
    @dataclasses.dataclass
    class Record:
        first: int = dataclasses.field(default_factory=lambda: (malloc(size()), here()))

        def __post_init__(self):
            malloc(size()), here()

    Record()


# --- depth


@construct
def recursion():
    def down(levels):
        if levels == 0:
            malloc(size()), here()
        else:
            down(levels - 1)

    for levels in (100, 118, 119, 120, 121, 122, 240, 241, 500, 800):
        down(levels)


@construct
def recursion_through_c():
    def down(levels):
        if levels == 0:
            malloc(size()), here()
        else:
            sorted([levels], key=lambda value: down(value - 1))

    for levels in (1, 5, 60):
        down(levels)


@construct
def recursion_of_generators():
    def down(levels):
        if levels == 0:
            malloc(size()), here()
            yield 0
        else:
            yield from down(levels - 1)

    for levels in (1, 5, 100):
        list(down(levels))


# --- code from elsewhere

NOTED = "malloc(size()), here()"
NAMES = {"malloc": malloc, "size": size, "here": here}


@construct
def executed():
    exec(NOTED, dict(NAMES))
    eval(NOTED, dict(NAMES))
    exec("\n\n\n" + NOTED, dict(NAMES))
    exec(compile("\ndef made():\n\n " + NOTED + "\nmade()", "of my own making.py", "exec"), dict(NAMES))
    eval(compile("[(" + NOTED + ")\n for _ in range(2)]", "<template>", "eval"), dict(NAMES))
    exec(compile(NOTED, "", "exec"), dict(NAMES))
    exec(compile(NOTED, "a" * 3000 + ".py", "exec"), dict(NAMES))
    (eval("lambda: (" + NOTED + ")", dict(NAMES)))()
    single = compile(NOTED, "<console>", "single")
    shown, sys.displayhook = sys.displayhook, lambda value: (malloc(size()), here())
    exec(single, dict(NAMES))
    sys.displayhook = shown


@construct
def far_lines():
    """Line tables with steps of all sizes, forwards and backwards."""
    for gap in (1, 2, 127, 128, 255, 256, 1000, 40000, 100000):
        text = "def far():\n " + NOTED + "\n" * gap + " " + NOTED + "\nfar()\n"
        exec(compile(text, f"far {gap}.py", "exec"), dict(NAMES))
    text = "def back(call):\n call(" + "\n" * 300 + "call(" + "\n" * 5 + "), call())\n"
    call = "def call(*what):\n " + NOTED + "\n"
    exec(compile(call + text + "back(call)", "back.py", "exec"), dict(NAMES))
    wide = "[" + ", ".join(str(number % 9) for number in range(300)) + "];"
    text = "def wide(x):\n " + "x = 1; " * 200 + NOTED + "\n " + wide + NOTED + "\n"
    exec(compile(text + "wide(0)", "wide.py", "exec"), dict(NAMES))


@construct
def big_functions():
    """A code object of more than 64 KiB, and many names."""
    lines = [f" name_{number} = {number} + argument" for number in range(5000)]
    for at in (4999, 3000, 1000, 1):
        lines.insert(at, " " + NOTED)
    text = "def big(argument):\n" + "\n".join(lines) + "\nbig(1)\n"
    exec(compile(text, "big.py", "exec"), dict(NAMES))


@construct
def letters():
    names = ["größe", "функция", "高さ", "ñ" * 300, "a" * 1000, "x", "ıstanbul", "𐍈𐍉", "µ"]
    for name in names:
        text = f"def {name}():\n {NOTED}\n{name}()\n"
        for file in ("plain.py", "größe.py", "функция.py", "😀 file.py", "new\nline;semi colon.py"):
            exec(compile(text, file, "exec"), dict(NAMES))


@construct
def renamed():
    """Code objects that are made from others, and functions whose code is replaced."""

    def original():
        malloc(size()), here()

    if hasattr(original.__code__, "replace"):
        code = original.__code__.replace(co_name="other", co_filename="other.py", co_firstlineno=7000)
        if hasattr(code, "co_qualname"):
            code = code.replace(co_qualname="made.other")
        keep(code)
        original.__code__ = code
        original()
    original.__name__ = "shown"
    original.__qualname__ = "shown.also"
    original()


@construct
def replaced_in_a_loop():
    """Code objects at each other's addresses: each is freed before the next is made."""
    # In 3.11 alone a text's own code object has neither its first line nor a number that tells it from the next text's:
    # a known limit (docs/python.md), so it is kept there.
    count = 1 if sys.version_info[:2] == (3, 11) else 2
    passing = f"malloc(size()), here(passing={count})"
    for number in range(40):
        text = "\n" * number + f"def turn_{number}():\n {passing}\nturn_{number}()\n"
        exec(compile(text, f"turn {number}.py", "exec"), dict(NAMES))


@construct
def modules():
    folder = sys.argv[2]
    sys.path.insert(0, folder)

    def write_module(name, text):
        path = os.path.join(folder, name + ".py")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    head = "from stacks_truth import *\n"
    write_module("of_source", head + NOTED + "\ndef called():\n " + NOTED + "\n")
    path = write_module("of_cache", head + "\n\n" + NOTED + "\ndef called():\n\n " + NOTED + "\n")
    py_compile.compile(path, cfile=os.path.join(folder, "of_cache.pyc"))
    os.remove(path)
    write_module("größe_高さ", head + NOTED + "\nclass Größe:\n " + NOTED + "\n def called(self):\n  " + NOTED + "\n")
    os.mkdir(os.path.join(folder, "package"))
    write_module("package/__init__", head + "from . import part\n")
    write_module("package/part", head + NOTED + "\n")
    importlib.invalidate_caches()
    import of_source
    import of_cache

    of_source.called()
    of_cache.called()
    importlib.import_module("größe_高さ").Größe().called()
    import package

    importlib.reload(package.part)
    spec = importlib.util.spec_from_file_location("by_hand", of_source.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.called()


# --- threads


def in_threads(name, start):
    """Calls `start` with a function that allocates and waits until it was called."""
    done = threading.Event()

    def body(*arguments):
        case(name)
        try:
            malloc(size()), here()
            keep(bytes(size()), here(BYTES))
        finally:
            done.set()

    start(body)
    done.wait()


@construct
def threads():
    def joined(body):
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()

    def pooled(body):
        with ThreadPoolExecutor(2) as pool:
            pool.submit(body).result()

    in_threads("threads", joined)
    in_threads("threads", pooled)
    in_threads("threads", lambda body: _thread.start_new_thread(body, ()))


@construct
def threads_at_once():
    """Several threads that allocate at the same time, and wait for each other without the lock."""
    barrier = threading.Barrier(4)

    def down(levels):
        if levels:
            down(levels - 1)
        else:
            for _ in range(20):
                barrier.wait()
                malloc(size()), here()

    def body(levels):
        case("threads_at_once")
        down(levels)

    started = [threading.Thread(target=body, args=(levels,)) for levels in range(4)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


@construct
def threads_of_c():
    """Python called from a thread that C code has started, and a thread of C code without any Python."""
    libc = ctypes.CDLL(None)
    entry = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)

    def body(argument):
        case("threads_of_c")
        malloc(size()), here()
        return None

    called = entry(body)
    thread = ctypes.c_ulong()
    libc.pthread_join.argtypes = [ctypes.c_ulong, ctypes.c_void_p]
    libc.pthread_create(ctypes.byref(thread), None, called, None)
    libc.pthread_join(thread, None)
    # malloc itself is what this thread runs.
    without = ctypes.cast(libc.malloc, ctypes.c_void_p)
    wanted = size()
    libc.pthread_create.argtypes = [ctypes.c_void_p] * 4
    libc.pthread_create(ctypes.byref(thread), None, without, wanted)
    libc.pthread_join(thread, None)
    note_names(wanted, "threads_of_c, without Python", [], of_object=False)


# --- other interpreters of the process

SUB = """
import os, sys
_sizes = iter([{sizes}])
_kept = []
_noted = []
def here():
    frame, stack = sys._getframe(1), []
    while frame is not None:
        code = frame.f_code
        stack.append((code.co_filename, frame.f_lineno, getattr(code, "co_qualname", code.co_name)))
        frame = frame.f_back
    _noted.append(stack)
def inner():
    _kept.append((bytes(next(_sizes)), here()))
def key(value):
    _kept.append((bytes(next(_sizes)), here()))
    return value
class Thing:
    def method(self):
        inner()
        sorted([1], key=key)
inner()
Thing().method()
import builtins
builtins.kept = getattr(builtins, "kept", []) + [_kept, here, inner, key, Thing]
os.write({fd}, repr(_noted).encode())
os.close({fd})
"""


def make_interpreter():
    """Makes another interpreter: how to run text in it."""
    try:
        import _interpreters as module

        made = module.create()
        return lambda text: module.exec(made, text)
    except ImportError:
        import _xxsubinterpreters as module

        made = module.create()
        keep(made)
        return lambda text: module.run_string(made, text)


def run_in(run):
    sizes = [size() for _ in range(3)]
    reading, writing = os.pipe()
    failure = run(SUB.format(sizes=", ".join(map(str, sizes)), fd=writing))
    assert failure is None, failure
    text = b""
    while True:
        more = os.read(reading, 65536)
        if not more:
            break
        text += more
    os.close(reading)
    for number, stack in zip(sizes, eval(text)):
        note_names(number + BYTES, "interpreters", stack)


@construct
def interpreters():
    run = make_interpreter()
    run_in(run)
    run_in(run)
    # Before 3.12 it is run with the state of the thread that made it, by which nothing tells whose it is.
    if sys.version_info >= (3, 12):
        thread = threading.Thread(target=run_in, args=(make_interpreter(),))
        thread.start()
        thread.join()
    malloc(size()), here()


@construct
def numpy_arrays():
    try:
        import numpy
    except ImportError:
        return
    keep(numpy.empty(size(), dtype=numpy.uint8), here())
    keep(numpy.fromfunction(lambda index: (malloc(size()), here()) and index, (1,)))
    keep(numpy.vectorize(lambda value: (malloc(size()), here()) and 1)([1, 2]))


def at_exit():
    case("at_exit")
    malloc(size()), here()


def finish():
    """The last of the functions called at exit: everything is noted by now."""
    write(sys.argv[1])
    try:
        step("done")
    finally:
        # What is kept stays to the end, however that comes.
        os._exit(0)


def main():
    atexit.register(finish)
    atexit.register(at_exit)
    chosen = [function for function in CASES if function.__name__ in sys.argv[3:] or not sys.argv[3:]]
    for function in chosen:
        case(function.__name__)
        function()


step("ready")
case("module level")
malloc(size()), here()
main()
