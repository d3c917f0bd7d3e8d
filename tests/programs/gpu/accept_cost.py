"""A million tensors, one after another, that PyTorch's cache serves: what one costs."""

import sys
import time

import torch

from accept_steps import truth, wait_at


def main():
    count = int(sys.argv[1])
    kept = torch.empty(4096, dtype=torch.uint8, device="cuda")
    wait_at("ready")
    begin = time.perf_counter_ns()
    for _ in range(count):
        torch.empty(4096, dtype=torch.uint8, device="cuda")
    took = time.perf_counter_ns() - begin
    truth(ns=took // count, kept=kept.nbytes)


main()
