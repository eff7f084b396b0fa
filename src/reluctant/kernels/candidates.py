"""Which neurons a few-token call has to look at: those that the bound does not rule out."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reluctant.kernels.bound import room
from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import as_float, range_of
from reluctant.kernels.lanes import GROUP, possible
from reluctant.kernels.vector import lowest_bit

HUGE = 2.0**126  # an |e| from here on is never certified: z might overflow


class Layer(NamedTuple):
    """What the kernel reads: the sketch, and views of the weights themselves.

    q: (d_ff / 64, d_model / 4, 64, 4) int8, both rounded up; scale, radius, own_norm: (d_ff,)
    float32; row_sum: (d_ff,) int32; rows: (d_ff, d_model), the keys, of gated layers the gates;
    factors: likewise, the keys of gated layers; bias, factor_bias: (d_ff,); values: (d_ff,
    d_model); value_bias: (d_model,). Weights and biases are float32, bfloat16 in uint16, or float16
    in int16; rows, factors and values may be 16-bit copies of float32 weights. The rest is what the
    live weights are compared with: `watch.Watched`.
    """

    q: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    radius: npt.NDArray[np.float32]
    own_norm: npt.NDArray[np.float32]
    row_sum: npt.NDArray[np.int32]
    rows: npt.NDArray[Any]
    bias: npt.NDArray[Any]
    factors: npt.NDArray[Any]
    factor_bias: npt.NDArray[Any]
    values: npt.NDArray[Any]
    value_bias: npt.NDArray[Any]
    live_gates: npt.NDArray[Any]
    live_factors: npt.NDArray[Any]
    live_values: npt.NDArray[Any]
    copied: npt.NDArray[np.int64]
    corner: npt.NDArray[Any]
    first: npt.NDArray[Any]
    sums: npt.NDArray[np.uint64]


class Rule(NamedTuple):
    """The numbers of one call.

    threshold: f is exactly zero at and below it; code: the activation (`codes`);
    slack: the share of |bias| in the bound; gated: whether the factors count; in_integers: which
    sketch pass (`sums`); limit: the share of a block's (neuron, token) pairs above which it gives
    up; everything: treat every neuron as a candidate; turn: a counter, by which rows are compared
    with their sketch in turn.
    """

    threshold: float
    code: int
    slack: float
    gated: bool
    in_integers: bool
    limit: float
    everything: bool
    turn: int


@kernel(inline="always")
def tame_bias(layer: Any) -> Any:
    """A factor whose bias stays below it overflows for no x that is not `huge`."""
    return min(HUGE, np.float64(range_of(layer.factor_bias)) / 2)


# Inlined: a call would copy all of the layer's array headers, which costs more than the work.
@kernel(inline="always")
def estimate(i: int, m: int, tokens: Any, sums: Any, layer: Any, rule: Any) -> Any:
    """e, and how far z may be from it, of neuron i and token m."""
    bias = np.float64(as_float(layer.bias[i]))
    total = tokens.step[m] * (sums[m, i] - tokens.middle * np.float64(layer.row_sum[i]))
    e = np.float64(layer.scale[i]) * total + bias
    far = room(
        *(tokens.norm[m], np.float64(layer.radius[i])),
        *(tokens.loss[m], np.float64(layer.own_norm[i]), rule.slack, bias),
    )
    return e, far


@kernel(inline="always")
def _possible(start: int, hi: int, m: int, tokens: Any, sums: Any, layer: Any, rule: Any) -> Any:
    """Which of the up to 64 neurons from `start` on are candidates, as bits."""
    bits = np.uint64(0)
    whole = start + GROUP <= hi
    if whole:
        bits = possible(
            *(sums, m, start, layer.scale, layer.radius, layer.own_norm, layer.row_sum),
            *(layer.bias, tokens.step[m], tokens.middle, tokens.norm[m], tokens.loss[m]),
            *(rule.slack, rule.threshold, HUGE),
        )
    if not whole or rule.gated or rule.everything:
        for i in range(start, min(start + GROUP, hi)):
            kept = rule.everything
            if not whole:
                e, far = estimate(i, m, tokens, sums, layer, rule)
                # Written so that NaN, wherever it comes from, makes a candidate.
                kept |= not ((e + far < rule.threshold) & (abs(e) < HUGE))
            if rule.gated:  # an infinite factor makes NaN of a zero
                kept |= not (abs(as_float(layer.factor_bias[i])) < tame_bias(layer))
            bits |= np.uint64(kept) << np.uint64(i - start)
    return bits


@kernel()
def select(lo: int, hi: int, m: int, tokens: Any, sums: Any, layer: Any, rule: Any,
            index: Any) -> Any:  # fmt: skip
    """Token m's candidates among neurons lo..hi, listed in index from lo on; how many.

    By bits: the work is that of the candidates, not of all.
    """
    at = lo
    for start in range(lo, hi, GROUP):
        bits = _possible(start, hi, m, tokens, sums, layer, rule)
        while bits != 0:
            index[at] = start + lowest_bit(bits)
            at += 1
            bits &= bits - np.uint64(1)
    return at - lo
