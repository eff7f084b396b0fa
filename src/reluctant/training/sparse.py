"""The products of a step over the active neurons alone."""

from typing import Any

import numpy as np
from torch import Tensor

from reluctant.kernels import active, gradients, transpose
from reluctant.kernels.team import team_for
from reluctant.training.call import Call, Weights, floats
from reluctant.training.lists import Lists
from reluctant.weights import as_array


def values_of(w2: Tensor) -> Tensor | None:
    """The rows of W2 on end, (d_ff, d_model) float32; None if some number may not be finite."""
    made = floats(*w2.shape[::-1])
    stored = as_array(w2.contiguous())
    return made if transpose.turned(stored, as_array(made), team_for(2 * made.nbytes)) else None


def forward(
    rows: Tensor, weights: Weights, call: Call, lists: Lists, values: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """y, the sum of |h|, and what is to be kept: the lists, and a gated layer's factors.

    rows: (tokens, d_model), contiguous; values: `values_of` W2.
    """
    (tokens, d), d_ff, pairs = rows.shape, len(weights.w1), len(lists.neuron)
    team, kept = team_for(rows.numel() * d_ff), [*lists]
    factor = floats(0)
    if weights.wg is not None:
        factor = floats(pairs)
        kept.append(factor)
        inputs = as_array(rows), as_array(weights.w1.contiguous()), _bias(weights.b1, d_ff)
        gradients.factors(*lists.places, *inputs, as_array(factor), team)
    h, y = floats(pairs), floats(tokens, d)
    rule = call.activation.kernel, call.activation.threshold, np.float32(call.scale)
    active.hidden(as_array(lists.z), as_array(factor), *rule, as_array(h), team)
    read = as_array(h), as_array(values), _bias(weights.b2, d)[0]
    active.add_rows(*lists.places, *read, as_array(y), team)
    size = h.abs().sum() if call.sized else h.new_zeros(())
    return y.to(rows.dtype), size, kept


def backward(
    rows: Tensor, weights: Weights, kept: list[Tensor], call: Call, dy: Tensor, dsize: float,
    wanted: Any,
) -> list[Any]:  # fmt: skip
    """The gradients of x and of the six weights; None where they are not wanted.

    dy: (tokens, d_model), contiguous and finite; dsize: of the sum of |h|.
    """
    lists, factors = Lists(*kept[:4]), kept[4:]
    (tokens, d), d_ff, gated = rows.shape, len(weights.w1), weights.wg is not None
    of_x, of_w1, of_b1, of_w2, of_b2, *of_gate = wanted
    if not gated:  # what feeds the activation is then w1
        of_gate, of_w1, of_b1 = [of_w1, of_b1], False, False

    def room(is_wanted: bool, *shape: int) -> Tensor:
        return floats(*shape) if is_wanted else floats(*(0 for _ in shape))

    team, pairs = team_for(rows.numel() * d_ff), len(lists.neuron)
    dz, dfactor = room(of_x, pairs), room(of_x and gated, pairs)
    gate = room(of_gate[0], d_ff, d), room(of_gate[1], d_ff)
    up = room(of_w1, d_ff, d), room(of_b1, d_ff)
    dw2 = room(of_w2, d, d_ff)
    written = (dz, dfactor, *gate, *up, dw2)
    if of_x or any(t.numel() for t in written):
        factor = factors[0] if gated else floats(0)
        tensors = lists.z, factor, rows, dy, weights.w2.contiguous()
        rule = (
            call.activation.kernel,
            call.activation.threshold,
            np.float32(call.scale),
            np.float32(dsize),
        )
        arrays = map(as_array, tensors), rule, map(as_array, written)
        gradients.run(*lists.places, *(each for group in arrays for each in group), team)
    dx = None
    if of_x:
        maps = [(dfactor, weights.w1)] if gated else []
        for numbers, matrix in [(dz, weights.fires[0]), *maps]:
            part, zeros = floats(tokens, d), np.zeros(d, np.float32)
            read = as_array(numbers), as_array(matrix.contiguous()), zeros
            active.add_rows(*lists.places, *read, as_array(part), team)
            dx = part if dx is None else dx.add_(part)
    second = dw2, dy.sum(0) if of_b2 else None
    found = (dx, *up, *second, *gate) if gated else (dx, *gate, *second, None, None)
    return [None if g is None or not w else g.to(rows.dtype)
            for g, w in zip(found, wanted, strict=True)]  # fmt: skip


def _bias(bias: Tensor | None, n: int) -> Any:
    """(1, n) float32; zeros if there is none."""
    return np.zeros((1, n), np.float32) if bias is None else as_array(bias.float().view(1, n))
