"""Random stacks: functions of all kinds in modules made for the purpose, called in random order to random depths, one
allocation of a unique size at the end of each. argv: the file for the stacks, a folder for the modules, how many
stacks, and the seed. Waits at "ready" and at "done"."""
import os
import random
import sys

from stacks_truth import case, step, write

# How a function goes on to the next one, `of(plan)`: plan is the list of those that are left.
KINDS = {
    "plain": """
def NAME(plan):
    return of(plan)(plan)
""",
    "lines": """
def NAME(plan):
    value = (
        len(plan),
        of(plan)(
            plan
        ), PAD
        len(plan),
    )
    return value
""",
    "lambda": """
NAME = lambda plan: PAD (lambda left: of(left)(left))(plan)
""",
    "method": """
class Of_NAME:
    def method(self, plan): PAD
        return of(plan)(plan)
    def __call__(self, plan):
        return self.method(plan)
NAME = Of_NAME()
""",
    "property": """
class Of_NAME:
    plan = None
    @property
    def value(self):
        PAD
        return of(self.plan)(self.plan)
def NAME(plan):
    thing = Of_NAME()
    thing.plan = plan
    return thing.value
""",
    "comprehension": """
def NAME(plan):
    return [PAD of(plan)(plan) for _ in range(1)]
""",
    "dict": """
def NAME(plan):
    return {0: PAD of(left)(left) for left in [plan]}
""",
    "generator": """
def NAME(plan):
    def made():
        yield 1 PAD
        yield of(plan)(plan)
    return list(made())
""",
    "expression": """
def NAME(plan):
    return sum(1 PAD for _ in range(1) if of(plan)(plan))
""",
    "from": """
def NAME(plan):
    def inner():
        got = yield
        of(plan)(plan)
    def outer():
        yield from inner() PAD
    running = outer()
    next(running)
    try:
        running.send(1)
    except StopIteration:
        pass
""",
    "coroutine": """
def NAME(plan):
    async def inner():
        return of(plan)(plan) PAD
    async def outer():
        return await inner()
    try:
        outer().send(None)
    except StopIteration as end:
        return end.value
""",
    "sorted": """
def NAME(plan):
    return sorted([1], key=lambda _: PAD (of(plan)(plan), 1)[1])
""",
    "map": """
def NAME(plan):
    return list(map(go, PAD [plan]))
""",
    "reduce": """
def NAME(plan):
    return functools.reduce(lambda a, b: of(b)(b), PAD [0, plan])
""",
    "partial": """
def NAME(first, plan):
    PAD
    return of(plan)(plan)
NAME = functools.partial(NAME, 1)
""",
    "decorated": """
def around_NAME(function):
    @functools.wraps(function)
    def wrapper(*arguments, **named):
        return function(*arguments, PAD **named)
    return wrapper
@around_NAME
def NAME(plan):
    return of(plan)(plan)
""",
    "sub": """
def NAME(plan):
    return re.sub("a", lambda match: PAD str(of(plan)(plan))[:1], "xay")
""",
    "handler": """
def NAME(plan):
    try:
        raise KeyError(1) PAD
    except KeyError:
        return of(plan)(plan)
""",
    "finally": """
def NAME(plan):
    try:
        PAD
        return 1
    finally:
        of(plan)(plan)
""",
    "context": """
class Of_NAME:
    def __init__(self, plan):
        self.plan = plan
    def __enter__(self): PAD
        pass
    def __exit__(self, *why):
        of(self.plan)(self.plan)
def NAME(plan):
    with Of_NAME(plan):
        pass
""",
    "class": """
def NAME(plan):
    class Body:
        value = of(plan)(plan) PAD
    return Body
""",
    "del": """
class Of_NAME:
    plan = None
    def __del__(self):
        PAD
        of(self.plan)(self.plan)
def NAME(plan):
    thing = Of_NAME()
    thing.plan = plan
    del thing
""",
    "exec": """
def NAME(plan):
    exec("\\n" * len(plan) + "of(plan)(plan)", {"of": of, "plan": plan}) PAD
""",
    "qsort": """
def NAME(plan):
    numbers = (ctypes.c_int * 2)(2, 1)
    libc.qsort(numbers, 2, 4, COMPARE(lambda a, b: (of(plan)(plan) and 0) PAD or 0))
""",
}

HEAD = """
import ctypes, functools, re
from stacks_truth import here, malloc, size
from stacks_random import CALLED
libc = ctypes.CDLL(None)
COMPARE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

def of(plan):
    return CALLED[plan.pop()] if plan else take

def go(plan):
    return of(plan)(plan)

def take(plan):
    return malloc(size()), here(checked=False)
"""

LEAF = """
def NAME(plan):
    plan.clear() PAD
    return malloc(size()), here(checked=False)
"""

CALLED = []


def make_modules(folder, chance, modules=5, functions=40):
    """Writes the modules, imports them, and puts their functions into CALLED."""
    sys.path.insert(0, folder)
    for module in range(modules):
        parts, names = [HEAD], []
        for number in range(functions):
            kind = chance.choice(sorted(KINDS))
            name = f"{kind}_{module}_{number}" if chance.random() < 0.9 else f"größe_{kind}_{number}"
            # Lines far from each other and near: an empty line stands for nothing inside of brackets only.
            pad = "#\n" * chance.choice((0, 0, 1, 3, 40, 200))
            body = KINDS[kind].replace("NAME", name)
            lines = []
            for line in body.split("\n"):
                before, marked, after = line.partition("PAD")
                lines.append(before + after if marked else line)
                if marked and not before.strip():
                    lines[-1] = line.replace("PAD", "pass")
                if marked:
                    lines.append(pad)
            parts.append("\n".join(lines))
            names.append(name)
        leaf = f"leaf_{module}"
        parts.append(LEAF.replace("NAME", leaf).replace("PAD", ""))
        path = os.path.join(folder, f"made_{module}.py")
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(parts))
        made = __import__(f"made_{module}")
        CALLED.extend(getattr(made, name) for name in names + [leaf])


def main():
    _, path, folder, count, seed = sys.argv
    chance = random.Random(int(seed))
    make_modules(folder, chance)
    step("ready")
    for number in range(int(count)):
        case(f"seed {seed}, stack {number}")
        plan = [chance.randrange(len(CALLED)) for _ in range(chance.randint(0, 59))]
        CALLED[chance.randrange(len(CALLED))](plan)
    write(path)
    step("done")


if __name__ == "__main__":
    # The modules import this one by its name.
    sys.modules["stacks_random"] = sys.modules["__main__"]
    main()
