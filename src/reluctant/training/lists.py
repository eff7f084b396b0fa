"""Which neurons are active for which token: by a dense first product, or by a sketch."""

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.kernels import active, compact, screened_active
from reluctant.kernels.codes import HARDSWISH
from reluctant.kernels.sums import BYTES, HUGE_PRODUCT
from reluctant.kernels.team import team_for
from reluctant.sketch import Sketch
from reluctant.training.call import Call, Weights, is_finite
from reluctant.weights import as_array

SAMPLED = 16  # tokens by which it is decided whether a sketch would pay
Z_BYTES = 2**24  # of z, of so many tokens as are listed at once: it is not kept
_SHORT = 2**16  # neurons whose numbers need no more than 16 bits


class Lists(NamedTuple):
    """The arrays of `active.Active`, as tensors."""

    start: Tensor
    offset: Tensor
    neuron: Tensor
    z: Tensor

    @property
    def places(self) -> tuple[Any, ...]:
        """start, offset, neuron as the kernels take them."""
        return as_array(self.start), as_array(self.offset), as_array(self.neuron)


class Found(NamedTuple):
    """lists: None where the dense way should serve; z: then the first tokens' first product, if it
    was done. pairs, active: how many pairs of token and neuron were counted, and were active."""

    lists: Lists | None
    z: Tensor | None = None
    pairs: int = 0
    active: int = 0


def find(rows: Tensor, weights: Weights, call: Call, seed: int) -> Found:
    """The active neurons that dropout lets be. rows: (tokens, d_model), contiguous."""
    fires, bias = weights.fires
    gated, d_ff = weights.wg is not None, len(fires)
    if call.limit <= 0 or (gated and not _factors_are_finite(rows, weights)):
        return Found(None)
    team, parts, total = team_for(rows.numel() * d_ff), list[Lists](), 0
    sketch = _sketch(rows, fires, bias, call)
    length = max(Z_BYTES // (rows.itemsize * d_ff), 16)
    for first in range(0, len(rows), length):
        some = rows[first : first + length]
        rule = (call.activation.threshold, call.drop, active.seed_from(seed, first * d_ff))
        start = torch.empty(len(some) + 1, dtype=torch.int64, device="cpu")
        screened = None if sketch is None else _screened(some, sketch, fires, bias, rule, start)
        z = rows[:0] if screened else F.linear(some, fires, bias)
        if call.drop > 0 and not is_finite(z):
            return Found(None, z if first == 0 else None)  # an infinity that is dropped makes a NaN
        found = screened[0] if screened else active.count(as_array(z), *rule, as_array(start), team)
        pairs = len(some) * d_ff
        if found > call.limit * pairs:
            return Found(None, z if first == 0 and not screened else None, pairs, found)
        if screened:
            lists = screened[1]
        else:
            lists = _room(start, d_ff, z.dtype)
            arrays = (*lists.places, as_array(lists.z))
            active.fill(as_array(z), *rule, *arrays, team)
        total += found
        parts.append(lists)
    return Found(_joined(parts), None, len(rows) * d_ff, total)


def _room(start: Tensor, d_ff: int, dtype: torch.dtype) -> Lists:
    pairs, kind = int(start[-1]), torch.uint16 if d_ff < _SHORT else torch.int32
    empty = partial(torch.empty, device="cpu")
    offset = empty(len(start) - 1, -(-d_ff // active.BLOCK) + 1, dtype=kind)
    return Lists(start, offset, empty(pairs, dtype=kind), empty(pairs, dtype=dtype))


def _joined(parts: list[Lists]) -> Lists:
    """Lists of some tokens after those of others."""
    if len(parts) == 1:
        return parts[0]
    starts, at = [parts[0].start[:1]], 0
    for part in parts:
        starts.append(part.start[1:] + at)
        at += int(part.start[-1])
    others = (torch.cat(each) for each in list(zip(*parts, strict=True))[1:])
    return Lists(torch.cat(starts), *others)


def _factors_are_finite(rows: Tensor, weights: Weights) -> bool:
    """An infinite factor makes a NaN of a zero. Lengths, which bound every product."""
    norm = partial(torch.linalg.vector_norm, dtype=torch.float64)
    bias = 0.0 if weights.b1 is None else float(norm(weights.b1, torch.inf))
    return float(norm(weights.w1)) * float(norm(rows)) + bias < HUGE_PRODUCT


def _sketch(rows: Tensor, fires: Tensor, bias: Tensor | None, call: Call) -> Sketch | None:
    """The sketch of the rows that feed the activation, if that pays: by some tokens' density.

    Screening reads a byte where the first product reads four; but the sketch has to be made anew,
    and the more neurons are active, the more candidates have to be computed besides.
    """
    if call.screen <= 0 or not BYTES or rows.dtype is not torch.float32:
        return None
    # An infinity, and hardswish(-inf), which is NaN, are for the dense product to show.
    finite = is_finite(rows) and (bias is None or is_finite(bias))
    if not finite or call.activation.kernel == HARDSWISH:
        return None
    every = max(len(rows) // SAMPLED, 1)
    z = F.linear(rows[::every][:SAMPLED], fires, bias)
    if int((z > call.activation.threshold).sum()) > call.screen * z.numel():
        return None
    try:
        sketch = Sketch.of(fires)
    except ReluctantError:  # a number that is not finite
        return None
    return sketch if sketch.in_integers else None


def _screened(
    rows: Tensor, sketch: Sketch, fires: Tensor, bias: Tensor | None, rule: Any, start: Tensor
) -> tuple[int, Lists] | None:
    """How many are active, and the lists; None if the weights have changed while they were made."""
    d_ff, (threshold, drop, seed) = len(fires), rule
    team = team_for(rows.numel() * d_ff // 4)
    own = sketch.q, sketch.scale, sketch.radius, sketch.own_norm, sketch.row_sum
    b = rows.new_zeros(d_ff) if bias is None else bias.contiguous()
    layer = *own, as_array(fires.contiguous()), as_array(b), sketch.max_norm, sketch.slack
    *raw, found = screened_active.find(
        as_array(rows), *layer, threshold, drop, seed, as_array(start), team
    )
    if found < 0:
        return None
    lists = _room(start, d_ff, rows.dtype)
    arrays = (*lists.places, as_array(lists.z))
    compact.copy(*raw, d_ff, drop, seed, *arrays, team)
    return found, lists
