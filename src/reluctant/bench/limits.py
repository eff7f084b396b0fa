"""What the machine can do at most, measured in the same run as what is held against it."""

from collections.abc import Callable

import torch

from reluctant import dense
from reluctant.timing import interleaved

MEMORY_BYTES = 2**30  # more than the caches of most machines; a share of a larger one's
PEAK_SIZE = 2048  # rows and columns of the products that look for the peak


def read_bandwidth(n_bytes: int) -> float:
    """Bytes per second at which this process can read a buffer over and over again.

    The better of two readers, each a product of PyTorch that does next to no arithmetic: a sum
    and the dot product of the two halves. A buffer that fits a cache gives that cache's bandwidth.

    Args:
        n_bytes: size of the buffer.

    >>> read_bandwidth(2**16) > 0
    True
    """
    buffer = torch.ones(n_bytes // 8 * 2)
    first, second = buffer.view(2, -1)
    return buffer.nbytes / _fastest(
        {"sum": lambda _: buffer.sum(), "dot": lambda _: torch.dot(first, second)}
    )


def multiply_add_peak() -> float:
    """Float32 operations per second (a multiply-add is two) of the best large product here.

    The better of PyTorch's own matmul (MKL or another BLAS) and oneDNN.
    """
    size = PEAK_SIZE
    a, b = torch.randn(size, size), torch.randn(size, size)
    calls: dict[str, Callable[[int], object]] = {"matmul": lambda _: a @ b}
    calls["oneDNN"] = lambda _: dense.linear(a, b, None)  # the BLAS once more where it is missing
    return 2 * size**3 / _fastest(calls)


def _fastest(calls: dict[str, Callable[[int], object]]) -> float:
    return min(interleaved(calls, rounds=5).values())
