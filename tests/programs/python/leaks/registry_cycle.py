# leak: {"function": "Parent.element", "type": "Element", "objects": 1}
"""A weak registry whose values refer to their keys, in a parent that a cache keeps: no element ever goes. Fixed: the
value does not refer to the key."""
import functools
import weakref

import steady


class Element:
    __slots__ = ("parent", "terms", "__weakref__")


class Parent:
    def __init__(self):
        self.registry = weakref.WeakKeyDictionary()

    def element(self, number):
        element = Element()  # leaks
        element.parent = self
        element.terms = [number] * 56  # leaks
        self.registry[element] = element if steady.leaking() else None
        return element


@functools.lru_cache(maxsize=None)
def parent_of(ring):
    return Parent()


def work(number):
    parent_of(number % 3).element(number)


steady.main(work, 300)
