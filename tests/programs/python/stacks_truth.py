"""What the stack fixtures share: unique sizes, and the Python stack at the line that allocates.

A line `malloc(size()), here()` takes one block of a size that nothing else has and notes the stack of that line, as
the interpreter itself gives it. `keep(bytes(size()), here(BYTES))` does the same with an object. Written for every
CPython from 3.8."""
import ctypes
import itertools
import json
import os
import sys
import threading
import traceback

# Far from what the interpreter asks for by itself, and odd.
_FIRST, _STEP = 70001, 16
# What malloc is asked for besides the bytes of an object.
BYTES = sys.getsizeof(b"") if sys.implementation.name == "cpython" else 0
# Builds without the global lock take the memory of objects from an allocator of their own.
_OBJECTS_BY_MALLOC = "t" not in getattr(sys, "abiflags", "")

_libc = ctypes.CDLL(None)
malloc = _libc.malloc
malloc.restype = ctypes.c_void_p
malloc.argtypes = [ctypes.c_size_t]
# The same without giving the interpreter's lock away; PyPy has no such.
locked_malloc = getattr(ctypes, "PyDLL", ctypes.CDLL)(None).malloc
locked_malloc.restype = ctypes.c_void_p
locked_malloc.argtypes = [ctypes.c_size_t]

_sizes = itertools.count(_FIRST, _STEP)
_current = threading.local()
_kept = []
_codes = {}
_stacks = []


def size():
    """The next size, which is this thread's until the next."""
    _current.size = next(_sizes)
    return _current.size


def keep(thing, noted=None):
    _kept.append(thing)


def here(more=0, passing=0, checked=True):
    """Notes the caller's stack, innermost first, for this thread's size and `more` bytes. Code objects that are noted
    are kept alive, except those of the innermost `passing` frames."""
    if more and not _OBJECTS_BY_MALLOC:
        return
    frame = sys._getframe(1)
    if checked:
        _check(frame)
    stack = []
    while frame is not None:
        code = frame.f_code
        # By identity: equal code objects may have different names.
        if len(stack) < 2 * passing:
            key, entry = (code.co_filename, _name(code)), (code.co_filename, _name(code), True)
        else:
            key, entry = id(code), code
        stack.append(_codes.setdefault(key, (len(_codes), entry))[0])
        stack.append(frame.f_lineno)
        frame = frame.f_back
    _stacks.append((_current.size + more, getattr(_current, "case", ""), stack))


def note_names(bytes_, case, frames, of_object=True):
    """Notes a stack of (file, line, function), for what is not seen from here. The code of a text that is run is
    freed at its end."""
    if of_object and not _OBJECTS_BY_MALLOC:
        return
    stack = []
    for file, line, function in frames:
        entry = (file, function, function == "<module>")
        stack.append(_codes.setdefault((file, function), (len(_codes), entry))[0])
        stack.append(line)
    _stacks.append((bytes_, case, stack))


def case(name):
    _current.case = name


def _check(frame):
    """The interpreter's two accounts of its stack are the same."""
    walked = traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)
    lines = [(entry.filename, entry.lineno, entry.name) for entry in walked]
    own = []
    while frame is not None:
        own.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    assert lines == own, (lines, own)


def _name(code):
    return getattr(code, "co_qualname", code.co_name)


def write(path):
    """Writes {"codes": [[file, function, passing]], "stacks": [[size, case, [code, line, code, line, ...]]]}. The code
    objects that were passing are gone by now."""
    codes = [None] * len(_codes)
    for index, entry in list(_codes.values()):
        codes[index] = entry if isinstance(entry, tuple) else (entry.co_filename, _name(entry), False)
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"version": sys.version.split()[0], "codes": codes, "stacks": _stacks}, file, ensure_ascii=True)


def step(name):
    os.write(1, (name + "\n").encode())
    return os.read(0, 1)
