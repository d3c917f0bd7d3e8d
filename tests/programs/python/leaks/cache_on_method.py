# leak: {"function": "Model.solution", "type": "Solution", "objects": 4}
"""A cache on a method keeps every object that the method was ever called on, and every result. Fixed: a bounded one."""
import functools
import sys

import steady

# functools.cache came with 3.9.
UNBOUNDED = getattr(functools, "cache", functools.lru_cache(maxsize=None))
CACHE = UNBOUNDED if steady.leaking() else functools.lru_cache(maxsize=128)
COEFFICIENTS = [0.5] * 60


class Solution(list):
    __slots__ = ("model", "degree", "steps", "error")


class Model:
    __slots__ = ("name",)

    @CACHE
    def solution(self, degree):
        solution = Solution(COEFFICIENTS)  # leaks
        solution.model = self
        solution.degree = degree
        return solution


def work(number):
    model = Model()
    model.name = number
    for degree in range(4):
        model.solution(degree)


def facts():
    """How many results are held, and the bytes of one: with its list, without the key and the model."""
    held = Model.solution.cache_info().currsize
    return {"held": held, "bytes_each": sys.getsizeof(Solution(COEFFICIENTS))}


steady.main(work, 50, facts)
