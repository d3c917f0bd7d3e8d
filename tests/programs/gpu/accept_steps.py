"""How the Python programs of `cargo xtask gpu-accept` wait for it, and tell it what they did."""

import json
import os
import sys


def wait_at(word):
    print(word, flush=True)
    if not os.read(0, 1):
        sys.exit(0)


def truth(**facts):
    wait_at(json.dumps(facts))
