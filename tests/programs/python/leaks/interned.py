# leak: {"function": "canonical"}
"""Names and keys made canonical: by the interpreter's table of interned strings and by one for all keys that ever were.
Fixed: a table that is emptied now and then, and nothing interned: CPython 3.12 frees no interned string, used or not."""
import sys

import steady

NAMES = {}
KEYS = {}
INTERN = sys.intern if steady.leaking() else str


def canonical(number):
    name = INTERN("column_%0300d" % number)  # leaks
    key = b"row_%0300d" % number  # leaks
    NAMES[name] = KEYS[key] = None  # leaks


def work(number):
    if not steady.leaking() and number % 200 == 0:
        NAMES.clear()
        KEYS.clear()
    canonical(number)


steady.main(work, 250)
