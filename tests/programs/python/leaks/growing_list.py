# leak: {"function": "remember", "type": "dict", "objects": 1}
"""A list in a module that every event is added to. Fixed: one that keeps the last hundred."""
import collections

import steady

HISTORY = [] if steady.leaking() else collections.deque(maxlen=100)


def remember(number):
    event = {"number": number, "user": number % 10, "kind": "visit", "path": "/", "code": 200, "bytes": 0}  # leaks
    HISTORY.append(event)  # leaks


steady.main(remember, 500)
