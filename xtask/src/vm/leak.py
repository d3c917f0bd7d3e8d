# The leak that the virtual machine's check looks for in Python: 2000 arrays of 3000 bytes, every 100th of which stays.
import posix

kept = []


def take():
    return bytearray(3000)


def run(count):
    for number in range(1, count + 1):
        block = take()
        if number % 100 == 0:
            kept.append(block)


run(2000)
# An interpreter that ends in good order frees even these.
posix._exit(0)
