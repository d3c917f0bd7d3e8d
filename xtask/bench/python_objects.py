# Programs that make and drop small objects and do little else. argv: json, objects, parser or numbers.
#
# Says "ready". For each line "MS" on stdin it loops for MS milliseconds; then one line "LOOPS CPU_NS WALL_NS" is written.
# Ends when stdin does. What is kept is bounded: nothing here leaks.
import collections
import json
import sys
import time


def documents():
    """Records to JSON and back."""
    records = [{"id": number, "name": f"name of {number}", "tags": [number % 7, "tag"]} for number in range(40)]
    recent = collections.deque(maxlen=50)
    while True:
        recent.append([json.loads(json.dumps(record)) for record in records])
        yield


class Order:
    def __init__(self, number):
        self.number = number
        self.lines = [(number + line, f"article {line}", line * 0.25) for line in range(6)]
        self.totals = {"net": number * 1.5, "gross": number * 1.75}

    def sum(self):
        return sum(price for _, _, price in self.lines) + self.totals["gross"]


def objects():
    """Objects with dictionaries, tuples and strings; the last thousand stay."""
    recent = collections.deque(maxlen=1000)
    number = 0
    while True:
        for number in range(number, number + 100):
            recent.append(Order(number))
            recent[0].sum()
        yield


class Node:
    __slots__ = ("operator", "left", "right")

    def __init__(self, operator, left, right):
        self.operator, self.left, self.right = operator, left, right


class Parser:
    """Expressions of numbers, names, + - * / and parentheses, to a tree."""

    LEVELS = ("+-", "*/")

    def __init__(self, text):
        for sign in "()+-*/":
            text = text.replace(sign, f" {sign} ")
        self.words = text.split()
        self.place = 0

    def next(self):
        return self.words[self.place] if self.place < len(self.words) else ""

    def take(self):
        word = self.next()
        self.place += 1
        return word

    def expression(self, level=0):
        if level == len(self.LEVELS):
            return self.operand()
        left = self.expression(level + 1)
        while self.next() and self.next() in self.LEVELS[level]:
            left = Node(self.take(), left, self.expression(level + 1))
        return left

    def operand(self):
        word = self.take()
        if word == "(":
            inner = self.expression()
            self.take()
            return inner
        return float(word) if word.isdigit() else word


def parser():
    """Texts to trees; the last twenty stay."""
    recent = collections.deque(maxlen=20)
    text = "+".join(f"({number}*x-{number + 1}/(y+{number}))" for number in range(30))
    while True:
        recent.append(Parser(text).expression())
        yield


class Ring:
    def __init__(self, modulus):
        self.modulus = modulus

    def __call__(self, value):
        return Element(self, value % self.modulus)


class Element:
    """A number that knows its ring: each operation makes a new one."""

    def __init__(self, ring, value):
        self.ring, self.value = ring, value

    def __add__(self, other):
        return self.ring(self.value + other.value)

    def __mul__(self, other):
        return self.ring(self.value * other.value)


def numbers():
    """Products of polynomials over a ring, as a computer algebra system has them."""
    ring = Ring(2**61 - 1)
    factor = [ring(number * 123456789) for number in range(12)]
    product = factor
    while True:
        result = [ring(0) for _ in range(len(product) + len(factor) - 1)]
        for place, left in enumerate(product):
            for offset, right in enumerate(factor):
                result[place + offset] = result[place + offset] + left * right
        product = result[:20]
        yield


def loop(steps, budget_ns):
    loops = 0
    cpu, wall = time.process_time_ns(), time.monotonic_ns()
    while True:
        next(steps)
        loops += 1
        now = time.monotonic_ns()
        if now - wall >= budget_ns:
            return loops, time.process_time_ns() - cpu, now - wall


STEPS = {"json": documents, "objects": objects, "parser": parser, "numbers": numbers}[sys.argv[1]]()
print("ready", flush=True)
for line in sys.stdin:
    print(*loop(STEPS, int(line) * 1_000_000), flush=True)
