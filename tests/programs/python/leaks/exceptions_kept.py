# leak: {"function": "parse", "type": "ParseError", "objects": 1}
"""A kept exception keeps its traceback, that the frames, and those their locals. Fixed: the traceback is dropped."""
import collections

import steady

ERRORS = [] if steady.leaking() else collections.deque(maxlen=100)


class ParseError(Exception):
    pass


def parse(number):
    buffer = bytearray(20000)  # leaks
    if len(buffer) != number:
        raise ParseError(number)


def work(number):
    try:
        parse(number)
    except ParseError as error:
        ERRORS.append(error if steady.leaking() else error.with_traceback(None))


steady.main(work, 10)
