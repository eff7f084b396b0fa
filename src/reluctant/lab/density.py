"""How many of a layer's neurons are active: by token, by position, and how that is spread."""

import torch
from torch import Tensor

from reluctant.lab.placed import Placed

# Of the histogram: eight bins for each factor of ten, from a thousandth up, and one below.
EDGES = (0.0, *(10.0 ** (k / 8) for k in range(-24, 1)))


class Density:
    """Counts of active neurons over a stream of tokens; its memory is fixed.

    d_ff: neurons. positions: of a sequence, at most. vocabulary: the number of token ids.
    tokens, active: totals; least, most: active neurons of one token. histogram: tokens by their
    share of active neurons, int64, bin i from EDGES[i] to below EDGES[i + 1], the last one closed.
    by_position (2, positions), by_token (2, vocabulary): active neurons, and tokens; int64.

    >>> density = Density(4, positions=2, vocabulary=9)
    >>> density.add(torch.tensor([1, 3]), None)
    >>> density.mean, density.least, density.most
    (0.5, 1, 3)
    """

    def __init__(self, d_ff: int, *, positions: int, vocabulary: int) -> None:
        self.d_ff = d_ff
        self.tokens = self.active = self.most = 0
        self.least = d_ff
        self.histogram = torch.zeros(len(EDGES) - 1, dtype=torch.int64)
        self.by_position = torch.zeros(2, positions, dtype=torch.int64)
        self.by_token = torch.zeros(2, vocabulary, dtype=torch.int64)
        self._bounds = torch.tensor(EDGES[1:-1], dtype=torch.float64)

    def add(self, counts: Tensor, placed: Placed | None) -> None:
        """counts: of each token's active neurons, int64 (rows,). placed: where they stand."""
        if not len(counts):
            return
        self.tokens += len(counts)
        self.active += int(counts.sum())
        self.least = min(self.least, int(counts.min()))
        self.most = max(self.most, int(counts.max()))
        bins = torch.bucketize(counts.double() / self.d_ff, self._bounds, right=True)
        self.histogram += torch.bincount(bins, minlength=len(self.histogram))
        if placed is not None:
            pair = torch.stack([counts, torch.ones_like(counts)])
            self.by_position.index_add_(1, placed.positions, pair)
            self.by_token.index_add_(1, placed.ids, pair)

    @property
    def mean(self) -> float:
        return self.active / (self.tokens * self.d_ff) if self.tokens else 0.0

    @property
    def memory_bytes(self) -> int:
        return sum(each.nbytes for each in (self.histogram, self.by_position, self.by_token))
