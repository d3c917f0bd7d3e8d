# leak: {"function": "family", "type": "Node", "objects": 2}
"""Parents and children that refer to each other, in a program that has switched the collector off. Fixed: a child
refers to its parent weakly."""
import gc
import weakref

import steady

gc.disable()


class Node:
    __slots__ = ("parent", "child", "payload", "__weakref__")


def family(number):
    parent, child = Node(), Node()  # leaks
    parent.payload = [number] * 48  # leaks
    parent.child = child
    child.parent = parent if steady.leaking() else weakref.ref(parent)


steady.main(family, 300)
