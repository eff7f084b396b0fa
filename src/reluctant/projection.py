"""An output projection: what every logit lies between, some logits exactly, or all of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reluctant.errors import ReluctantError
from reluctant.freshness import Stamp
from reluctant.kernels import likeliest
from reluctant.kernels import projection as kernels
from reluctant.kernels.lanes import GROUP
from reluctant.kernels.team import team_for
from reluctant.kernels.watch import part_changed, remember
from reluctant.linear import few_rows, some_outputs
from reluctant.narrow import Narrow
from reluctant.own_lock import OwnLock
from reluctant.sketch import Sketch
from reluctant.weights import Map, as_array

_SHARES = 16  # of the rows are compared with what stood there, one at each call


class Stale(Exception):  # noqa: N818 - a finding, not an error
    """The weights are not those that were sketched: what was made of them is forgotten by now."""


@dataclass(frozen=True)
class _Sketched:
    """rows, rest: the arguments of `kernels.bounds` before and after the biases; corner, sums:
    those of `watch.part_changed`; table: what `likeliest.run_at` takes first.
    """

    stamp: Stamp
    rows: tuple[Any, ...]
    rest: tuple[Any, ...]
    corner: Any
    sums: Any
    table: tuple[Any, ...]


class Projection:
    """The bounds and the logits of one `nn.Linear(d_model, vocabulary)`, from its live weights.

    Does not keep it alive. narrow: reads its weight in 16 bits, where that is the same.

    Raises ReluctantError for weights that hold a NaN or an infinity when they are first needed.

    >>> head = nn.Linear(16, 1000).requires_grad_(False)
    >>> projection, x = Projection(head), torch.ones(1, 16)
    >>> low, up = projection.bounds(x)
    >>> bool(((low <= head(x)) & (head(x) <= up)).all())
    True
    """

    def __init__(self, linear: nn.Linear, narrow: Narrow | None = None) -> None:
        self.map, self.narrow = Map(linear), narrow
        self._now: _Sketched | None = None
        self._turn = 0
        self._lock = OwnLock()

    @property
    def memory_bytes(self) -> int:
        """What the sketch takes, once it has been needed."""
        now = self._now
        if now is None:
            return 0
        held = (now.corner, now.sums, *now.rows)
        return sum(array.nbytes for array in held)

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What every float32 evaluation of each logit lies between, before it is rounded to 16
        bits: two (m, vocabulary) float32. x: (m, d_model), contiguous, of the weights' dtype.

        Raises Stale if a look at some of the weights shows that they have changed unseen.
        """
        now = self._get()
        weight, bias = self.map.tensors()
        self._turn += 1
        if part_changed(as_array(weight.data), now.corner, now.sums, self._turn, _SHARES):
            self.forget()
            raise Stale
        n = weight.shape[0]
        padded = -(-n // GROUP) * GROUP
        low, up = torch.empty(2, len(x), padded, device="cpu").unbind()
        biases = torch.zeros(padded, dtype=weight.dtype, device="cpu")
        if bias is not None:  # as it is now, whoever wrote it
            biases[:n] = bias.data
        arguments = (as_array(x), *now.rows, as_array(biases), *now.rest, low.numpy(), up.numpy())
        kernels.bounds(*arguments, team_for(now.rows[0].nbytes))
        return low[:, :n], up[:, :n]

    def likeliest(self, x: Tensor, left_out: int | None, most: int) -> tuple[Any, Any] | None:
        """The ids of each row's largest logit, the lowest of equals, and how many logits of it were
        computed: NumPy's, (rows,) int64. None where that tells nothing: of one row it would have to
        be more than `most`, or there is a NaN.

        x: (rows, d_model) float32, contiguous; so are the weights. left_out: an id that is not to
        be chosen. Raises Stale as `bounds` and `some`.
        """
        now = self._get()
        _, bias = self.map.tensors()
        self._turn += 1
        chosen, read = np.empty((2, len(x)), np.int64)
        at = x.data_ptr(), len(x), 0 if bias is None else bias.data_ptr()
        how = self._turn, -1 if left_out is None else left_out, most, chosen, read
        status = likeliest.run_at(*now.table, *at, *how, team_for(now.rows[0].nbytes))
        if status == likeliest.STALE:
            self.forget()
            raise Stale
        return (chosen, read) if status == likeliest.FOUND else None

    def some(self, x: Tensor, row: int, outputs: Tensor, low: Tensor, up: Tensor) -> Tensor:
        """These logits of row `row`, in the weights' dtype, with the bits that `all` gives them.

        outputs: (k,) int64; low, up: (k,), their bounds. Raises Stale if one is not between them.
        """
        weight, bias = self.map.tensors()
        held = None if bias is None else bias.data
        found = some_outputs(x, row, weight.data, held, outputs)
        between = (low.to(x.dtype) <= found) & (found <= up.to(x.dtype))
        if not bool((between | ~up.isfinite()).all()):
            self.forget()
            raise Stale
        return found

    def all(self, x: Tensor) -> Tensor:
        """All logits: (m, vocabulary), of the weights' dtype; x as in `bounds`."""
        weight, bias = self.map.tensors()
        read = weight.data if self.narrow is None else self.narrow.read()
        return few_rows(x, read, None if bias is None else bias.data)

    def forget(self) -> None:
        """Forget what was derived from the weights."""
        self._now = None

    def _get(self) -> _Sketched:
        now = self._now
        if now is not None and now.stamp.holds():
            return now
        with self._lock.held():
            now = self._now  # another thread may have made it meanwhile
            if now is None or not now.stamp.holds():
                self._now = now = self._sketched()
            return now

    @torch.no_grad()
    def _sketched(self) -> _Sketched:
        with torch.inference_mode(False):
            stamp = Stamp(self.map)  # before anything is read
            weight, _ = self.map.tensors()
            if weight.is_inference():
                raise ReluctantError(
                    "expected an output projection that was not made in inference mode, in which "
                    "torch does not tell of changes: make the model outside of it"
                )
            if not weight.is_contiguous():
                raise ReluctantError("expected rows on end in an output projection's weight")
            sketch = Sketch.of(weight, centred=True)
            n = weight.shape[0]
            missing = -n % GROUP
            own = (sketch.scale, sketch.radius, sketch.own_norm, sketch.row_sum)
            rows = (sketch.q, *(np.pad(array, (0, missing)) for array in own))
            rest = (sketch.centre, sketch.max_norm, sketch.slack, sketch.in_integers)
            stored = as_array(weight.data)
            corner, sums = np.empty(n, stored.dtype), np.empty(n, np.uint64)
            remember(stored, 0, corner, corner, sums)
            arrays = (*rows, sketch.centre, corner, sums)
            table = likeliest.table_of(arrays, stored, (*rest[1:], _SHARES))
            return _Sketched(stamp, rows, rest, corner, sums, table)
