"""What one feed-forward layer does with a stream of tokens: statistics of fixed memory."""

import torch
from torch import Tensor

from reluctant.lab.contexts import Contexts
from reluctant.lab.density import Density
from reluctant.lab.placed import Placed
from reluctant.lab.residual import Residual
from reluctant.lab.sample import SIZE, Reservoir
from reluctant.lab.watch import Seen, Watch

NEAR = 0.01  # of a token's largest |h|
_PIECE = 64  # rows that are made float64 at once: their squares may be too large for float32


class Instrument:
    """Takes the calls of one layer, and adds them up; sums are float64, counts int64.

    positions: of a sequence, at most. vocabulary: the number of token ids. seed: of the sample.

    density: active neurons by token. contexts: where each neuron fired most. sample: of x.
    use: for how many tokens each neuron was active; total, energy: the sums of h and h^2, (d_ff,).
    near: the sum of the tokens' shares of neurons with |h| above NEAR of the token's largest.
    overlap, neighbours: the sum of the Jaccard indices of the active sets of neighbouring tokens,
    and of how many pairs; two empty sets are the same one, 1. ratio, cosine, updates: the sums of
    |y| / |residual| and of the cosine between the two, over so many tokens. why: the reason why
    there is no residual, "" if there always was one. unplaced: tokens of calls whose rows are not
    the batch's tokens, as those of an expert. not_finite: tokens with an infinite h or a NaN; sums
    are no numbers then, contexts are of the others.
    """

    def __init__(self, watch: Watch, *, positions: int, vocabulary: int, seed: int) -> None:
        self.watch = watch
        keys = watch.keys
        self.d_ff, self.d_model = keys.shape
        self.density = Density(self.d_ff, positions=positions, vocabulary=vocabulary)
        self.contexts = Contexts(self.d_ff)
        self.sample = Reservoir(SIZE, width=self.d_model, seed=seed, dtype=keys.dtype)
        self.use = torch.zeros(self.d_ff, dtype=torch.int64)
        self.total = torch.zeros(self.d_ff, dtype=torch.float64)
        self.energy = torch.zeros_like(self.total)
        self.near = self.overlap = self.ratio = self.cosine = 0.0
        self.neighbours = self.updates = self.unplaced = self.not_finite = 0
        self.why = ""

    def add(self, seen: Seen, placed: Placed | None) -> None:
        """Take one call. placed: where its rows stand, padding among them; None: not known."""
        if placed is not None:
            seen = Seen(*(each[placed.rows] for each in seen))
        else:
            self.unplaced += len(seen.x)
        if not len(seen.x):
            return
        active, h = self.watch.active(seen), seen.h.float()
        counts = active.sum(1)
        self.density.add(counts, placed)
        self.sample.add(seen.x)
        self.use += active.sum(0)
        self.total += h.sum(0).double()
        for at in range(0, len(h), _PIECE):
            self.energy += h[at : at + _PIECE].double().square_().sum(0)
        sizes = h.abs()
        largest = sizes.amax(1, keepdim=True)
        self.near += float((sizes > NEAR * largest).sum()) / self.d_ff
        finite = largest.isfinite()
        strange = len(h) - int(finite.sum())
        self.not_finite += strange
        if placed is not None:
            self.contexts.add(h, active & finite if strange else active, placed.windows)
            self._neighbours(active, counts, placed.follows)

    def _neighbours(self, active: Tensor, counts: Tensor, follows: Tensor) -> None:
        both = (active[1:] & active[:-1]).sum(1)
        either = counts[1:] + counts[:-1] - both
        jaccard = torch.where(either > 0, both.double() / either.clamp(min=1), 1.0)
        self.overlap += float(jaccard[follows].sum())
        self.neighbours += int(follows.sum())

    def add_update(self, y: Tensor, residual: Residual, placed: Placed | None) -> None:
        """Take what one call added, (rows, d_model), to the residual stream."""
        if residual.rows is None:
            self.why = self.why or residual.why
            return
        y, other = y.double(), residual.rows.double()
        if placed is not None:
            y, other = y[placed.rows], other[placed.rows]
        there = other.norm(dim=1) != 0
        y, other = y[there], other[there].nan_to_num(torch.nan, torch.nan, torch.nan)
        self.ratio += float((y.norm(dim=1) / other.norm(dim=1)).sum())
        self.cosine += float(torch.cosine_similarity(y, other, dim=1).sum())
        self.updates += int(there.sum())

    @property
    def tokens(self) -> int:
        return self.density.tokens

    @property
    def memory_bytes(self) -> int:
        """Of all that it keeps."""
        sums = self.use.nbytes + self.total.nbytes + self.energy.nbytes
        parts = self.density, self.contexts, self.sample
        return sums + sum(part.memory_bytes for part in parts)
