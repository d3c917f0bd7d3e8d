"""Catches PyTorch's exception for lack of memory twenty times: under a tracer that is done only if it disturbs none."""

import torch

from accept_steps import truth, wait_at


def too_much():
    return torch.empty(1 << 50, dtype=torch.uint8, device="cuda")


def main():
    wait_at("ready")
    caught = 0
    for _ in range(20):
        try:
            too_much()
        except torch.cuda.OutOfMemoryError:
            caught += 1
    truth(caught=caught)


main()
