"""The active neurons of every token by the sketch, for training: `active`'s lists without a dense
first product.

The sketch was made of these very weights in this very call, so nothing can be stale but by another
thread's hand.
"""

from typing import Any

import numpy as np

from reluctant.kernels.candidates import Layer, Rule
from reluctant.kernels.codes import RELU
from reluctant.kernels.compact import count_stays
from reluctant.kernels.compile import kernel
from reluctant.kernels.screened import all_integers, list_active


@kernel()
def find(
    x: Any, q: Any, scale: Any, radius: Any, own_norm: Any, row_sum: Any, rows: Any, bias: Any,
    max_norm: float, slack: float, threshold: float, drop: float, seed: int, start: Any, team: Any,
) -> Any:  # fmt: skip
    """Lists for `compact.copy`: bounds, neuron, z; how many are active, -1: of no use.

    x: (tokens, d), rows: (d_ff, d) float32, with their `sketch.Sketch`; bias: (d_ff,). Writes
    `start`, as `active` describes it.
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
    count_stays(lists.bounds, lists.neuron, drop, seed, d_ff, start)
    return lists.bounds, lists.neuron, lists.weight, -1 if stale else active
