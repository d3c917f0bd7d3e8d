"""Ten arrays of 5 MiB in JAX. Run it with XLA_PYTHON_CLIENT_ALLOCATOR=platform, so that each is a call of the driver."""

import jax
import numpy

from accept_steps import truth, wait_at

keep = []


def leaky():
    keep.append(jax.device_put(numpy.zeros(5 << 20, numpy.uint8)).block_until_ready())


def main():
    wait_at("ready")
    for _ in range(10):
        leaky()
    truth(bytes=sum(array.nbytes for array in keep), platform=keep[0].devices().pop().platform)


main()
