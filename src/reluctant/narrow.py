"""Weights of float32 that are 16-bit numbers, read as such: half the bytes, and the same numbers.

Checkpoints are often made of bfloat16 or float16 numbers and loaded as float32. Of such a weight a
copy is kept beside it. What a product of float32 with the copy gives has the bits that it has with
the weight itself.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reluctant.freshness import Stamp
from reluctant.kernels.watch import part_changed, remember
from reluctant.own_lock import OwnLock
from reluctant.sketch import SERVED
from reluctant.weights import Map, as_array, copy_of, narrowest

_ROWS = 2**14  # that are looked at in each call


@dataclass(frozen=True)
class Copied:
    """copy: None: there is none. stamp: of the weight before it was copied. corner, sums, parts:
    what `watch.part_changed` compares.
    """

    stamp: Stamp
    copy: Tensor | None = None
    corner: Any = None
    sums: Any = None
    parts: int = 1


class Narrow:
    """Reads the weight of one `nn.Linear` in 16 bits if that is the same. Does not keep it alive.

    A weight that was changed is copied anew. torch tells of most changes; those behind its back
    are looked for at each read: one weight of every row, of large vocabularies of 16,384 rows by
    turns, and all of one row. Weights made in inference mode, of whose changes torch does not tell,
    are read as they are.

    >>> linear = nn.Linear(2, 2).requires_grad_(False)
    >>> narrow = Narrow(linear)
    >>> linear.weight.fill_(0.5) is linear.weight, narrow.read().dtype
    (True, torch.bfloat16)
    >>> linear.weight.fill_(0.1) is linear.weight, narrow.read().dtype
    (True, torch.float32)
    """

    def __init__(self, linear: nn.Linear) -> None:
        self._map, self._lock = Map(linear), OwnLock()
        self._now: Copied | None = None
        self._turn = 0

    def is_of(self, linear: nn.Module) -> bool:
        """Whether it reads this one's weight."""
        return self._map.is_of(linear)

    def read(self) -> Tensor:
        """(n, d): the weight's numbers as they are now, in bfloat16 or float16, or itself."""
        now = self._now
        if now is None or not now.stamp.holds():
            now = self._made()
        elif now.copy is not None:
            self._turn += 1
            live = as_array(self._weight())
            if part_changed(live, now.corner, now.sums, self._turn, now.parts):
                self.forget()
                now = self._made()
        return self._weight() if now.copy is None else now.copy

    def copied(self) -> Copied:
        """The copy, as far as torch tells of changes: who reads it looks for others."""
        now = self._now
        return now if now is not None and now.stamp.holds() else self._made()

    @property
    def memory_bytes(self) -> int:
        """What the copy takes, if there is one by now."""
        now = self._now
        if now is None or now.copy is None:
            return 0
        return now.copy.nbytes + int(now.corner.nbytes + now.sums.nbytes)

    def forget(self) -> None:
        """Forget the copy."""
        self._now = None

    def _weight(self) -> Tensor:
        weight: Tensor = self._map.tensors()[0].data
        return weight

    def _made(self) -> Copied:
        with self._lock.held():
            now = self._now  # another thread may have made it meanwhile
            if now is None or not now.stamp.holds():
                self._now = now = self._copied()
            return now

    @torch.no_grad()
    def _copied(self) -> Copied:
        with torch.inference_mode(False):
            stamp, weight = Stamp(self._map), self._weight()  # the stamp before anything is read
            dtype = torch.float32
            plain = weight.is_cpu and weight.is_contiguous() and not weight.is_inference()
            if plain and weight.dtype is torch.float32:
                dtype = narrowest([weight], SERVED)
            if dtype is torch.float32:
                return Copied(stamp)
            live = as_array(weight)
            corner, sums = np.empty(len(live), live.dtype), np.empty(len(live), np.uint64)
            remember(live, 0, corner, corner, sums)
            parts = max(1, len(live) // _ROWS)
            return Copied(stamp, copy_of(weight, dtype), corner, sums, parts)
