"""Where the rows of a layer's input stand in the text."""

import copy
from functools import cached_property

import torch.nn.functional as F
from torch import Tensor

BEFORE, AFTER = 9, 6  # tokens of a context around its own


class Placed:
    """The tokens of one batch, as rows, padding left out.

    ids: token ids (sequences, length), each sequence followed by padding. mask: bool, the same
    shape, False at padding. shape: of both. rows: the real tokens' indices among all, int64 (n,).

    >>> import torch
    >>> placed = Placed(torch.tensor([[5, 6], [7, 0]]), torch.tensor([[True, True], [True, False]]))
    >>> placed.ids, placed.positions, placed.follows
    (tensor([5, 6, 7]), tensor([0, 1, 0]), tensor([ True, False]))
    >>> placed.rows, placed.turned().rows
    (tensor([0, 1, 2]), tensor([0, 2, 1]))
    """

    def __init__(self, ids: Tensor, mask: Tensor) -> None:
        self._padded = ids.masked_fill(~mask, -1)
        self.shape: tuple[int, ...] = tuple(mask.shape)
        self._there = self.rows = mask.flatten().nonzero().squeeze(1)
        self.ids = ids.flatten()[self.rows]
        self.positions = self.rows % mask.shape[1]

    def turned(self) -> "Placed":
        """The same tokens in the same order, but `rows` those of a call (length, sequences)."""
        sequences, length = self.shape
        other = copy.copy(self)
        other.rows = self.positions * sequences + self._there // length
        return other

    @property
    def padded(self) -> bool:
        """Whether there is padding among its positions."""
        sequences, length = self.shape
        return len(self._there) < sequences * length

    @cached_property
    def follows(self) -> Tensor:
        """Whether row i + 1 is the token after row i: bool (n - 1,)."""
        return self.positions[1:] > 0

    @cached_property
    def windows(self) -> Tensor:
        """Each token with those around it: int32 (n, BEFORE + 1 + AFTER), -1 where there is none.

        Its own place is column BEFORE.
        """
        wide = F.pad(self._padded.int(), (BEFORE, AFTER), value=-1)
        windows = wide.unfold(1, BEFORE + 1 + AFTER, 1).reshape(-1, BEFORE + 1 + AFTER)
        return windows[self._there]
