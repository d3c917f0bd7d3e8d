# Makes objects of many kinds, says how many of each there are, and waits for its input to end.
import gc, json, os, sys, weakref


class Plain: pass
class Slots: __slots__ = ("a", "b", "__weakref__")
class OneSlot: __slots__ = ("a",)
class OfList(list): pass
class OfDict(dict): pass
class OfTuple(tuple): pass
class OfStr(str): pass
class Meta(type): pass
class OfMeta(metaclass=Meta): pass
class Ünïcode: pass


def same_name(module):
    space = {"__name__": module}
    exec("class Same:\n def __init__(self): self.x = [self]\n", space)
    return space["Same"]


def generator():
    yield []


def build(count):
    one, two = same_name("package.one"), same_name("package.two")
    keep, inner = [], []
    for i in range(count):
        plain = Plain()
        plain.x, plain.y = i, plain
        keep += [{"k": [i]}, plain, [[i], {}], {i: i for i in range(i % 50)}]
        if i % 4:
            continue
        slots, one_slot, running = Slots(), OneSlot(), generator()
        slots.a, slots.b, one_slot.a = slots, i, keep
        next(running)
        inner = OfList([i, inner])
        keep += [slots, one_slot, inner, OfDict(a=inner), OfTuple((inner,)), OfStr(i), OfMeta(), Ünïcode()]
        keep += [one(), two(), weakref.ref(slots), running, {1, running}, set(range(20)), frozenset([running])]
        keep += [lambda i=i: i, bytearray(i % 300), b"x" * (i % 600), "y%d" % i, i * 1.5, running.__next__]
    deep = []
    for i in range(500):
        deep = [deep]
    return keep, deep


def name(of):
    module = of.__module__
    return of.__qualname__ if module == "builtins" else module + "." + of.__qualname__


# Numbers are no objects of the collector's, so that counting leaves nothing but what it has counted.
def count():
    objects = gc.get_objects()
    counted, sizes = {}, {}
    for each in objects:
        kind = name(type(each))
        counted[kind] = counted.get(kind, 0) + 1
        if type(each) in SIZED and each is not objects:
            sizes[kind] = sizes.get(kind, 0) + sys.getsizeof(each)
    del objects
    return counted, sizes


SIZED = (list, dict, set, tuple, frozenset, Plain, OfList, OfDict, OfTuple, Slots, OneSlot, type(lambda: 0))
frozen = [[i, []] for i in range(1000)]
gc.collect()
gc.freeze()
kept = build(int(os.environ["OBJECTS"]))
gc.collect()
gc.collect()
gc.disable()
# What is made once, by whoever does it first.
json.dumps([{"a": [1]}])
print(end="", sep="", flush=True)
count()
counted, sizes = count()
# The two in `counted` were filled while they were counted, and are tracked only if they hold something that is.
text = json.dumps([counted, sizes])
print(text, flush=True)
os.read(0, 1)
