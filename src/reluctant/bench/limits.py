"""What the machine can do at most, measured in the same run as what is held against it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from reluctant import dense
from reluctant.timing import interleaved

MEMORY_BYTES = 2**30  # more than the caches of most machines; a share of a larger one's
PEAK_SIZE = 2048  # rows and columns of the products that look for the peak


@dataclass(frozen=True)
class Probe:
    """Several ways of doing a known amount of work and nothing else; the best one is the limit.

    Attributes:
        work: bytes or operations of one call.
        calls: by a name that starts with "limit", as `reluctant.timing` takes them.
    """

    work: float
    calls: dict[str, Callable[[int], object]]

    def rate(self, seconds: Mapping[str, float]) -> float:
        """Work per second of the best one, from the measured time of each."""
        return self.work / min(seconds[name] for name in self.calls)

    def measure(self) -> float:
        """The same from a measurement of its own."""
        return self.rate(interleaved(self.calls, rounds=5))


def reading(n_bytes: int) -> Probe:
    """Read a buffer over and over again; one that fits a cache gives that cache's bandwidth.

    A sum, and the dot product of the two halves: PyTorch's products with next to no arithmetic.

    Args:
        n_bytes: size of the buffer.

    >>> reading(2**16).measure() > 0
    True
    """
    buffer = torch.ones(n_bytes // 8 * 2)
    first, second = buffer.view(2, -1)
    return Probe(
        buffer.nbytes,
        {
            "limit: sum": lambda _: buffer.sum(),
            "limit: dot": lambda _: torch.dot(first, second),
        },
    )


def multiplying() -> Probe:
    """Multiply two large float32 matrices; a multiply-add counts as two operations."""
    size = PEAK_SIZE
    a, b = torch.randn(size, size), torch.randn(size, size)
    return Probe(
        2 * size**3,
        {
            "limit: matmul": lambda _: a @ b,  # MKL, or whichever BLAS torch has
            "limit: oneDNN": lambda _: dense.linear(a, b, None),
        },
    )
