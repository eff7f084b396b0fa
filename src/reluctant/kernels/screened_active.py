"""The active neurons of every token by the sketch, for training: `active`'s lists without a dense
first product.

The sketch was made of these very weights in this very call, so nothing can be stale but by another
thread's hand.
"""

from typing import Any

import numpy as np

from reluctant.kernels.active import BLOCK, stays
from reluctant.kernels.candidates import Layer, Rule
from reluctant.kernels.codes import RELU
from reluctant.kernels.compile import kernel
from reluctant.kernels.screened import all_integers, list_active
from reluctant.kernels.team import spread

_COPIED = 16  # tokens of a piece whose lists are put together


@kernel()
def _count(bounds: Any, neuron: Any, drop: float, seed: int, d_ff: int, start: Any) -> Any:
    """Writes `Active.start`; how many neurons are active."""
    active = 0
    start[0] = 0
    for m in range(bounds.shape[0]):
        stay = 0
        for b in range(bounds.shape[1]):
            active += bounds[m, b, 1] - bounds[m, b, 0]
            for p in range(bounds[m, b, 0], bounds[m, b, 1] if drop > 0 else bounds[m, b, 0]):
                stay += stays(m, neuron[p], d_ff, drop, seed)
            if drop == 0:
                stay += bounds[m, b, 1] - bounds[m, b, 0]
        start[m + 1] = start[m] + stay
    return active


@kernel()
def _copy(k: int, who: int, bounds: Any, neuron: Any, z: Any, drop: float, seed: int, d_ff: int,
          start: Any, offset: Any, neuron_to: Any, z_to: Any) -> None:  # fmt: skip
    """One list for each token, of those that stay."""
    for m in range(k * _COPIED, min((k + 1) * _COPIED, bounds.shape[0])):
        at, block = start[m], 0
        for b in range(bounds.shape[1]):
            for p in range(bounds[m, b, 0], bounds[m, b, 1]):
                i = neuron[p]
                if drop > 0 and not stays(m, i, d_ff, drop, seed):
                    continue
                while block <= i // BLOCK:
                    offset[m, block] = at - start[m]
                    block += 1
                neuron_to[at], z_to[at] = i, z[p]
                at += 1
        while block < offset.shape[1]:
            offset[m, block] = at - start[m]
            block += 1


@kernel()
def find(
    x: Any, q: Any, scale: Any, radius: Any, own_norm: Any, row_sum: Any, rows: Any, bias: Any,
    max_norm: float, slack: float, threshold: float, drop: float, seed: int, start: Any, team: Any,
) -> Any:  # fmt: skip
    """Lists that `copy` puts together: bounds, neuron, z; how many are active, -1: of no use.

    x: (tokens, d), rows: (d_ff, d) float32, with their `sketch.Sketch`; bias: (d_ff,). Writes
    `Active.start`.
    """
    d_ff, nothing, one = scale.shape[0], rows[:0], np.zeros((3, 1), np.float32)
    layer = Layer(
        q, scale, radius, own_norm, row_sum, rows, bias, rows, bias, rows, bias, nothing, nothing,
        nothing, np.zeros(3, np.int64), one, np.zeros((3, d_ff), np.float32),
        np.zeros((3, 1), np.uint64),
    )  # fmt: skip
    rule = Rule(threshold, RELU, slack, False, True, 2.0, False, 0)  # ReLU's value is z itself
    integers = all_integers(x, layer, max_norm, team)
    lists, active, _, stale = list_active(x, integers, layer, rule, team)
    _count(lists.bounds, lists.neuron, drop, seed, d_ff, start)
    return lists.bounds, lists.neuron, lists.weight, -1 if stale else active


@kernel()
def copy(bounds: Any, neuron: Any, z: Any, d_ff: int, drop: float, seed: int, start: Any,
         offset: Any, neuron_to: Any, z_to: Any, team: Any) -> None:  # fmt: skip
    """Writes the other arrays of `Active`."""
    arguments = (bounds, neuron, z, drop, seed, d_ff, start, offset, neuron_to, z_to)
    spread(_copy, team, -(-bounds.shape[0] // _COPIED), arguments)
