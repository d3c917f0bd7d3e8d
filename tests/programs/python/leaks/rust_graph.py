# leak: {"function": "build", "type": "PyDiGraph", "objects": 1}
"""Graphs that a Rust extension keeps, in a list that nobody empties. Fixed: only the last few are kept."""
import collections

import rustworkx

import steady

GRAPHS = [] if steady.leaking() else collections.deque(maxlen=5)
EDGES = [(number, (number * 7 + 1) % 500) for number in range(2000)]


def build(number):
    graph = rustworkx.PyDiGraph()
    graph.extend_from_edge_list(EDGES)  # leaks
    GRAPHS.append(graph)


steady.main(build, 2)
