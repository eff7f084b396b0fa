"""What the machine can do at most, measured in the same run as what is held against it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from reluctant import dense
from reluctant.kernels import read
from reluctant.kernels.team import team_of
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

    By a kernel that sums it on all threads, and by MKL's dot product of its two halves: the first
    is the faster one in the nearer caches, the second elsewhere.

    Args:
        n_bytes: size of the buffer.

    >>> reading(2**16).measure() > 0
    True
    """
    threads = torch.get_num_threads()
    buffer = torch.ones(max(n_bytes, 2**12) // 8 * 2)
    words, sums = buffer.numpy(), torch.zeros(threads, 16).numpy()
    first, second = buffer.view(2, -1)
    return Probe(
        buffer.nbytes,
        {
            "limit: sum": lambda _: read.run(words, sums, team_of(threads)),
            "limit: dot": lambda _: torch.dot(first, second),
        },
    )


def multiplying(dtype: torch.dtype) -> Probe:
    """Multiply two large matrices; a multiply-add counts as two operations."""
    size = PEAK_SIZE
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    calls: dict[str, Callable[[int], object]] = {"limit: matmul": lambda _: a @ b}
    if dtype == torch.float32:  # torch multiplies float32 by MKL, bfloat16 by oneDNN
        calls["limit: oneDNN"] = lambda _: dense.linear(a, b, None)
    return Probe(2 * size**3, calls)
