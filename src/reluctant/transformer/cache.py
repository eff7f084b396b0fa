"""What the decoder remembers from one step to the next."""

from dataclasses import dataclass

import torch
from torch import Tensor


class KeyValues:
    """Keys and values of the positions so far, (batch, heads, length, d_head) each.

    Room is doubled when it runs out, so that n steps copy O(n) positions, not O(n^2).
    """

    def __init__(self) -> None:
        self.length = 0
        self._rooms: list[Tensor] = []

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add new positions, and give all; those of a first call are not copied."""
        start, self.length = self.length, self.length + keys.size(2)
        if not self._rooms:
            self._rooms = [keys, values]
            return keys, values
        for i, new in enumerate((keys, values)):
            # a tensor made in inference mode must not be written to outside of it
            fixed = self._rooms[i].is_inference() and not torch.is_inference_mode_enabled()
            if fixed or self._rooms[i].size(2) < self.length:
                spare = new.new_empty(*new.shape[:2], self.length, new.size(3))
                self._rooms[i] = torch.cat([self._rooms[i][:, :, :start], new, spare], 2)
            else:
                self._rooms[i][:, :, start : self.length] = new
        keys, values = (room[:, :, : self.length] for room in self._rooms)
        return keys, values

    def reorder(self, rows: Tensor) -> None:
        """Go on with these rows (ids, any number) of the batch."""
        self._rooms = [room.index_select(0, rows) for room in self._rooms]


@dataclass
class Past:
    """What one decoder layer remembers: keys and values of the target so far, and of the memory."""

    target: KeyValues
    memory: tuple[Tensor, Tensor]


@dataclass
class Cache:
    """What the decoder remembers: of the sources, and of `length` positions of `rows` targets."""

    layers: list[Past]
    memory_mask: Tensor | None
    sources: int
    rows: int | None = None
    length: int = 0

    def reorder(self, rows: Tensor) -> None:
        """Go on with these target rows: ids (rows,), in the order of the sources, as many each."""
        if self.rows == len(rows) and rows.tolist() == list(range(len(rows))):
            return  # often, once the beams have settled
        self.rows = len(rows)
        for past in self.layers:
            past.target.reorder(rows)
