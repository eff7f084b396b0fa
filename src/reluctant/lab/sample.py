"""A fixed number of tokens out of a stream of any length."""

import numpy as np
import torch
from torch import Tensor

SIZE = 1024


class Reservoir:
    """`size` rows of a stream, each row as likely as any other; its memory is fixed.

    Vitter 1985, algorithm R. By one seed the same rows are taken from the same stream, however it
    is cut into batches.

    >>> reservoir = Reservoir(2, width=1, seed=1)
    >>> for number in range(100):
    ...     reservoir.add(torch.tensor([[float(number)]]))
    >>> reservoir.rows.shape, reservoir.seen
    (torch.Size([2, 1]), 100)
    """

    def __init__(self, size: int, *, width: int, seed: int, dtype: torch.dtype = torch.float32):
        self._kept = torch.zeros(size, width, dtype=dtype)
        self._random = np.random.default_rng(seed)
        self.seen = 0

    def add(self, rows: Tensor) -> None:
        """rows: (n, width)."""
        size, first = len(self._kept), self.seen
        self.seen += len(rows)
        free = min(max(size - first, 0), len(rows))
        self._kept[first : first + free] = rows[:free]
        if free == len(rows):
            return
        slots = self._random.integers(np.arange(first + free, self.seen) + 1)
        # of several rows for one slot the last one stays
        taken = {int(slots[i]): free + int(i) for i in np.nonzero(slots < size)[0]}
        if taken:
            self._kept[list(taken)] = rows[list(taken.values())]

    @property
    def rows(self) -> Tensor:
        """(min(size, seen), width)."""
        return self._kept[: self.seen]

    @property
    def memory_bytes(self) -> int:
        return self._kept.nbytes
