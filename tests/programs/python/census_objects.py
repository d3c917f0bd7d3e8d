"""Makes objects of many kinds, says how many of each the collector knows, and waits for its input to end."""
import gc
import json
import os
import sys
import weakref


class Plain:
    pass


class Slots:
    __slots__ = ("a", "b", "__weakref__")


class OfList(list):
    pass


class OfDict(dict):
    pass


class Meta(type):
    pass


class OfMeta(metaclass=Meta):
    pass


def generator():
    yield []


def build(count):
    kept, inner = [], []
    for i in range(count):
        plain = Plain()
        plain.x, plain.y = i, plain
        kept += [{"k": [i]}, plain, [[i], {}], {i: i for i in range(i % 50)}, i * 1.5, "y%d" % i]
        if i % 4:
            continue
        slots, running = Slots(), generator()
        slots.a, slots.b = slots, i
        next(running)
        inner = OfList([i, inner])
        kept += [slots, inner, OfDict(a=inner), OfMeta(), weakref.ref(slots), running, {1, running}, lambda i=i: i]
    return kept


def name(kind):
    return kind.__qualname__ if kind.__module__ == "builtins" else kind.__module__ + "." + kind.__qualname__


# Numbers are no objects of the collector's, so that counting leaves nothing but what it has counted.
def count():
    objects = gc.get_objects()
    counted = {}
    for each in objects:
        kind = name(type(each))
        counted[kind] = counted.get(kind, 0) + 1
    del objects
    return counted


kept = build(int(os.environ["OBJECTS"]))
gc.collect()
gc.collect()
gc.disable()
# What is made once, by whoever does it first.
json.dumps([{"a": [1]}])
print(end="", sep="", flush=True)
count()
print(json.dumps(count()), flush=True)
os.read(0, 1)
