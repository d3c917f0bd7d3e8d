"""Ten tensors of 5 MiB, and what PyTorch's allocator says of them; with `emptied` they are gone before that."""

import gc
import sys

import torch

from accept_steps import truth, wait_at

keep = []


def leaky():
    keep.append(torch.empty(5 << 20, dtype=torch.uint8, device="cuda"))


def main():
    wait_at("ready")
    for _ in range(10):
        leaky()
    torch.cuda.synchronize()
    if sys.argv[1:] == ["emptied"]:
        keep.clear()
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
    truth(allocated=torch.cuda.memory_allocated(), reserved=torch.cuda.memory_reserved())


main()
