"""Of each neuron the tokens, with their surroundings, that make it fire most."""

import torch
from torch import Tensor

from reluctant.lab.placed import AFTER, BEFORE

KEPT = 8


class Contexts:
    """The KEPT largest |h| of each neuron, and where they were; its memory is fixed.

    sizes, values: |h| and h, float32 (d_ff, KEPT), falling; 0 where there are fewer.
    windows: token ids, int32 (d_ff, KEPT, BEFORE + 1 + AFTER), as `Placed` has them.

    >>> contexts = Contexts(1)
    >>> window = torch.arange(BEFORE + 1 + AFTER, dtype=torch.int32)
    >>> h = torch.tensor([[0.5], [0.0], [2.0]])
    >>> contexts.add(h, h != 0, torch.stack([window, window + 1, window + 2]))
    >>> contexts.values[0, :3], contexts.windows[0, 0, BEFORE]
    (tensor([2.0000, 0.5000, 0.0000]), tensor(11, dtype=torch.int32))
    """

    def __init__(self, d_ff: int) -> None:
        self.sizes, self.values = torch.zeros(d_ff, KEPT), torch.zeros(d_ff, KEPT)
        shape = (d_ff, KEPT, BEFORE + 1 + AFTER)
        self.windows = torch.full(shape, -1, dtype=torch.int32)

    def add(self, h: Tensor, active: Tensor, windows: Tensor) -> None:
        """h: float32 (rows, d_ff); active: bool, the same shape; windows: (rows, columns)."""
        if not len(h):
            return
        sizes = h.abs().masked_fill(~active, 0.0)
        # Soon a batch has little that is larger than what was there.
        better = (sizes.amax(0) > self.sizes[:, -1]).nonzero().squeeze(1)
        if not len(better):
            return
        found, rows = sizes[:, better].topk(min(KEPT, len(h)), dim=0)
        values, rows = h[rows, better].T, rows.T
        both = torch.cat([self.sizes[better], found.T], 1)
        order = both.sort(dim=1, descending=True, stable=True).indices[:, :KEPT]
        self.sizes[better] = both.gather(1, order)
        self.values[better] = torch.cat([self.values[better], values], 1).gather(1, order)
        places = torch.cat([self.windows[better], windows[rows]], 1)
        self.windows[better] = places.gather(1, order[..., None].expand(-1, -1, places.shape[2]))

    @property
    def memory_bytes(self) -> int:
        return sum(each.nbytes for each in (self.sizes, self.values, self.windows))
