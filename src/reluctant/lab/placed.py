"""Where the rows of a layer's input stand in the text."""

from functools import cached_property

import torch.nn.functional as F
from torch import Tensor

BEFORE, AFTER = 9, 6  # tokens of a context around its own


class Placed:
    """The tokens of one batch, as rows, padding left out.

    ids: token ids (sequences, length), each sequence followed by padding. mask: bool, the same
    shape, False at padding. size: of both. rows: the real tokens' indices among all, int64 (n,).

    >>> import torch
    >>> placed = Placed(torch.tensor([[5, 6], [7, 0]]), torch.tensor([[True, True], [True, False]]))
    >>> placed.ids, placed.positions, placed.follows
    (tensor([5, 6, 7]), tensor([0, 1, 0]), tensor([ True, False]))
    """

    def __init__(self, ids: Tensor, mask: Tensor) -> None:
        self._padded = ids.masked_fill(~mask, -1)
        self.size = mask.numel()
        self.rows = mask.flatten().nonzero().squeeze(1)
        self.ids = ids.flatten()[self.rows]
        self.positions = self.rows % mask.shape[1]

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
        return windows[self.rows]
