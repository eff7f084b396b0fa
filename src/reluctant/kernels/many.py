"""Activation and second product for many tokens: only the rows of W2 whose neuron is active.

z comes from a dense first product. Each token's active neurons are listed, and their values are
summed in strips of columns, a block of neurons at a time, whose values stay in the second-level
cache while all tokens pass by. Every column of every token is summed in the neurons' order, in one
grouping, whatever the tasks and the threads.
"""

from typing import Any

import numpy as np

from reluctant.kernels.activate import activate, is_active
from reluctant.kernels.codes import HARDSWISH
from reluctant.kernels.compile import kernel
from reluctant.kernels.rows import STRIP, add_list
from reluctant.kernels.team import spread
from reluctant.kernels.vector import above, count_bits, lowest_bit

TOKENS = 128  # of a piece: their sums stay in the cache, too
_LISTED = 16  # tokens of a piece where neurons are counted and listed
# Values of a block of neurons. Strips of rows that are a power of two long fall into a part of the
# cache's sets only, as large as the whole rows would fill: so that is what has to fit.
BLOCK_BYTES = 2**20
BITS = 64


@kernel()
def _lowest(code: int) -> Any:
    """Below which a z is active again: -inf is, where f(-inf) is NaN."""
    return np.float32(-3.4028235e38) if code == HARDSWISH else np.float32(-np.inf)


@kernel()
def _count(z: Any, m: int, threshold: float, code: int) -> Any:
    """How many neurons are active for token m, 64 at a time."""
    d_ff = z.shape[1]
    whole = d_ff // BITS * BITS
    total = 0
    for c in range(0, whole, BITS):
        total += count_bits(above(z, m, c, threshold, _lowest(code)))
    for i in range(whole, d_ff):
        total += is_active(code, threshold, z[m, i])
    return total


@kernel()
def _list(z: Any, m: int, threshold: float, code: int, at: int, size: int, bounds: Any,
          index: Any, weight: Any) -> None:  # fmt: skip
    """Lists token m's active neurons and their f(z) from `at` on, and where each block begins.

    Bit by bit: the work is that of the active neurons, not of all.
    """
    d_ff = z.shape[1]
    whole = d_ff // BITS * BITS
    for c in range(0, whole, BITS):
        if c % size == 0:
            bounds[c // size, 0] = at
        bits = above(z, m, c, threshold, _lowest(code))
        while bits != 0:
            i = c + lowest_bit(bits)
            index[at] = i
            weight[at] = activate(code, z[m, i])
            at += 1
            bits &= bits - np.uint64(1)
    for i in range(whole, d_ff):
        if i % size == 0:
            bounds[i // size, 0] = at
        if is_active(code, threshold, z[m, i]):
            index[at] = i
            weight[at] = activate(code, z[m, i])
            at += 1
    for block in range(bounds.shape[0] - 1):
        bounds[block, 1] = bounds[block + 1, 0]
    bounds[-1, 1] = at


@kernel()
def block_size(d: int, d_ff: int) -> Any:
    """Neurons of a block: a multiple of 64; at least four blocks of a layer with as many."""
    return min(max(BLOCK_BYTES // (4 * d) // BITS, 1), max(d_ff // (4 * BITS), 1)) * BITS


@kernel()
def _starts(counts: Any) -> Any:
    """Where each token's list starts, and where the last one ends."""
    starts = np.zeros(counts.shape[0] + 1, np.int64)
    for m in range(counts.shape[0]):
        starts[m + 1] = starts[m] + counts[m]
    return starts


@kernel()
def _strip(strip: int, first: int, last: int, bounds: Any, index: Any, weight: Any,
          values: Any, bias: Any, out: Any, sums: Any) -> None:  # fmt: skip
    """One strip of columns for tokens first..last.

    sums: (tokens, STRIP), room for theirs: strips of the output itself would compete with those of
    the values for a part of the cache's sets.
    """
    left = strip * STRIP
    right = min(left + STRIP, out.shape[1])
    tokens = last - first
    sums[:tokens, :] = 0
    for block in range(bounds.shape[1]):
        for k in range(tokens):
            start, stop = bounds[first + k, block, 0], bounds[first + k, block, 1]
            add_list(sums, k, 0, values, left, right - left, index, weight, start, stop, False)
    for k in range(tokens):
        for j in range(left, right):
            out[first + k, j] = sums[k, j - left] + bias[j]


@kernel()
def _counts(k: int, who: int, z: Any, threshold: float, code: int, counts: Any) -> None:
    for m in range(k * _LISTED, min((k + 1) * _LISTED, z.shape[0])):
        counts[m] = _count(z, m, threshold, code)


@kernel()
def _lists(k: int, who: int, z: Any, threshold: float, code: int, starts: Any, size: int,
           bounds: Any, index: Any, weight: Any) -> None:  # fmt: skip
    for m in range(k * _LISTED, min((k + 1) * _LISTED, z.shape[0])):
        _list(z, m, threshold, code, starts[m], size, bounds[m], index, weight)


@kernel()
def _values(k: int, who: int, length: int, bounds: Any, index: Any, weight: Any, values: Any,
            bias: Any, out: Any, sums: Any) -> None:  # fmt: skip
    groups = -(-out.shape[0] // length)
    first = k % groups * length
    last = min(first + length, out.shape[0])
    _strip(k // groups, first, last, bounds, index, weight, values, bias, out, sums[who])


@kernel()
def add_values(bounds: Any, index: Any, weight: Any, values: Any, bias: Any, out: Any,
               team: Any) -> None:  # fmt: skip
    """out = the listed values' weighted sums + bias."""
    tokens, d = out.shape
    groups = -(-tokens // TOKENS)  # of even length: few read the values less often
    length = -(-tokens // groups)
    sums = np.empty((max(team[1], 1), length, STRIP), np.float32)
    pieces = -(-d // STRIP) * -(-tokens // length)
    spread(_values, team, pieces, (length, bounds, index, weight, values, bias, out, sums))


@kernel()
def combine(z: Any, threshold: float, code: int, values: Any, bias: Any, limit: float, out: Any,
            team: Any) -> int:  # fmt: skip
    """out = f(z) @ values + bias over the active neurons. Their number, or -1 if above `limit`.

    z: (m, d_ff); values: (d_ff, d); bias: (d,); out: (m, d); all float32, C-contiguous.
    threshold: f is exactly zero at and below it; code: which f (`codes`).
    limit: the largest share of active neurons that is served; above it, `out` is not written.
    """
    tokens, d_ff = z.shape
    counts, pieces = np.empty(tokens, np.int64), -(-tokens // _LISTED)
    spread(_counts, team, pieces, (z, threshold, code, counts))
    starts = _starts(counts)
    active = starts[-1]
    if active > limit * tokens * d_ff:
        return -1
    index, weight = np.empty(active, np.int32), np.empty(active, np.float32)
    size = block_size(out.shape[1], d_ff)
    bounds = np.empty((tokens, -(-d_ff // size), 2), np.int64)
    spread(_lists, team, pieces, (z, threshold, code, starts, size, bounds, index, weight))
    add_values(bounds, index, weight, values, bias, out, team)
    return int(active)
