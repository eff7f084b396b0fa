"""The active neurons of every token as lists, for many tokens: for inference one product, for
training five.

z comes from a dense first product. A list holds a token's active neurons in their order, with their
z; where a block of BLOCK neurons begins in it is kept, too, so that a product can take the neurons
block by block, whose rows stay in the second-level cache while the tokens pass by.

*Dropout* thins the lists: what it drops has no part in any product, forward or backward. Whether a
pair of token and neuron is dropped is a hash of its number and a seed: no random state is carried
from one pair to the next, so the lists do not depend on who makes which.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reluctant.kernels.activate import activate, slope
from reluctant.kernels.codes import HARDSWISH
from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import as_float
from reluctant.kernels.rows import STRIP, add_list
from reluctant.kernels.team import spread
from reluctant.kernels.vector import above, count_bits, lowest_bit

BITS = 64  # neurons that are compared at once
BLOCK = 128  # neurons, a multiple of BITS
_LISTED = 16  # tokens of a piece where neurons are counted and listed
# Of the rows of the blocks that are added up together. Strips of rows that are a power of two long
# fall into a part of the cache's sets only, as large as the whole rows would fill: that has to fit.
_TOGETHER_BYTES = 2**20
_TOKENS = 128  # of a piece of a sum: their sums stay in the cache, too
# A z below it is -inf, and listed: its row of W1, or x, may hold an infinity, which 0 makes a NaN.
FINITE = np.float32(-3.4028235e38)


class Active(NamedTuple):
    """Lists of active neurons.

    start: (tokens + 1,) int64, where each token's list starts; offset: (tokens, blocks + 1), how
    far behind that each block of neurons does; neuron: (n,); z: (n,), its pre-activation, as it
    came. offset and neuron are uint16 of layers with fewer than 2^16 neurons, otherwise int32.
    """

    start: npt.NDArray[np.int64]
    offset: npt.NDArray[Any]
    neuron: npt.NDArray[Any]
    z: npt.NDArray[Any]


_STEP = 0x9E3779B97F4A7C15  # SplitMix64's, between the numbers that it makes others of


def seed_from(seed: int, pair: int) -> int:
    """The seed with which pairs that are counted from 0 are those from `pair` on."""
    moved = (seed + pair * _STEP) % 2**64
    return moved - 2**64 if moved >= 2**63 else moved


@kernel()
def stays(m: int, i: int, d_ff: int, drop: float, seed: int) -> Any:
    """Whether dropout lets a pair be: SplitMix64's finaliser (Steele et al. 2014) of its number."""
    h = np.uint64(seed) + np.uint64(m * d_ff + i) * np.uint64(_STEP)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    h ^= h >> np.uint64(31)
    return np.float64(h >> np.uint64(11)) * 2.0**-53 >= drop


@kernel()
def _count(k: int, who: int, z: Any, threshold: float, drop: float, seed: int, counts: Any) -> None:
    """counts[m]: how many neurons are active for token m, and how many of them stay."""
    tokens, d_ff = z.shape
    whole = d_ff // BITS * BITS
    for m in range(k * _LISTED, min((k + 1) * _LISTED, tokens)):
        active = stay = 0
        for c in range(0, whole, BITS):
            bits = above(z, m, c, threshold, FINITE)
            active += count_bits(bits)
            while drop > 0 and bits != 0:
                stay += stays(m, c + lowest_bit(bits), d_ff, drop, seed)
                bits &= bits - np.uint64(1)
        for i in range(whole, d_ff):
            if _listed(as_float(z[m, i]), threshold):
                active += 1
                stay += drop > 0 and stays(m, i, d_ff, drop, seed)
        counts[m, 0], counts[m, 1] = active, stay if drop > 0 else active


@kernel()
def _listed(z: Any, threshold: float) -> Any:
    return not (z <= threshold) or z < FINITE


@kernel()
def _list(k: int, who: int, z: Any, threshold: float, drop: float, seed: int, start: Any,
          offset: Any, neuron: Any, kept: Any) -> None:  # fmt: skip
    """Bit by bit: the work is that of the active neurons, not of all."""
    tokens, d_ff = z.shape
    whole = d_ff // BITS * BITS
    for m in range(k * _LISTED, min((k + 1) * _LISTED, tokens)):
        at = start[m]
        for c in range(0, whole, BITS):
            if c % BLOCK == 0:
                offset[m, c // BLOCK] = at - start[m]
            bits = above(z, m, c, threshold, FINITE)
            while bits != 0:
                i = c + lowest_bit(bits)
                bits &= bits - np.uint64(1)
                if drop == 0 or stays(m, i, d_ff, drop, seed):
                    neuron[at] = i
                    kept[at] = z[m, i]
                    at += 1
        for i in range(whole, d_ff):
            if i % BLOCK == 0:
                offset[m, i // BLOCK] = at - start[m]
            if _listed(as_float(z[m, i]), threshold) and (
                drop == 0 or stays(m, i, d_ff, drop, seed)
            ):
                neuron[at] = i
                kept[at] = z[m, i]
                at += 1
        offset[m, -1] = at - start[m]


@kernel()
def count(z: Any, threshold: float, drop: float, seed: int, start: Any, team: Any) -> Any:
    """How many pairs of token and neuron are active. Writes `Active.start`, of those that stay.

    z: (tokens, d_ff) float32, or bfloat16 in uint16; threshold: the activation is exactly zero at
    and below it; drop: the probability of dropping one.
    """
    tokens = z.shape[0]
    counts = np.empty((tokens, 2), np.int64)
    spread(_count, team, -(-tokens // _LISTED), (z, threshold, drop, seed, counts))
    active = 0
    start[0] = 0
    for m in range(tokens):
        active += counts[m, 0]
        start[m + 1] = start[m] + counts[m, 1]
    return active


@kernel()
def fill(z: Any, threshold: float, drop: float, seed: int, start: Any, offset: Any, neuron: Any,
         kept: Any, team: Any) -> None:  # fmt: skip
    """Writes the other arrays of `Active`."""
    pieces = -(-z.shape[0] // _LISTED)
    spread(_list, team, pieces, (z, threshold, drop, seed, start, offset, neuron, kept))


@kernel()
def value_of(code: int, threshold: float, z: Any) -> Any:
    """f(z) of a listed neuron; -inf, too, has the limit's."""
    if not (z <= threshold):
        return activate(code, z)
    return z * np.float32(0.0) if code == HARDSWISH else np.float32(0.0)


@kernel()
def slope_of(code: int, threshold: float, z: Any) -> Any:
    """f'(z) of a listed neuron."""
    return slope(code, z) if not (z <= threshold) else np.float32(0.0)


@kernel()
def _hidden(k: int, who: int, size: int, z: Any, factor: Any, code: int, threshold: float,
            scale: Any, h: Any) -> None:  # fmt: skip
    for p in range(k * size, min((k + 1) * size, z.shape[0])):
        h[p] = scale * value_of(code, threshold, as_float(z[p]))
        if factor.shape[0] > 0:
            h[p] *= factor[p]


@kernel()
def hidden(z: Any, factor: Any, code: int, threshold: float, scale: Any, h: Any, team: Any) -> None:
    """h = scale f(z) factor, (n,) float32; factor: (n,) or, of layers without gates, (0,)."""
    size = 1 << 14
    pieces = -(-z.shape[0] // size)
    spread(_hidden, team, pieces, (size, z, factor, code, threshold, scale, h))


@kernel()
def _strip(k: int, who: int, length: int, together: int, start: Any, offset: Any, neuron: Any,
           weight: Any, rows: Any, bias: Any, out: Any, sums: Any) -> None:  # fmt: skip
    """One strip of columns for some tokens.

    sums: (threads, tokens, STRIP), room for theirs: strips of the output itself would compete with
    those of the rows for a part of the cache's sets.
    """
    tokens, d = out.shape
    groups, blocks = -(-tokens // length), offset.shape[1] - 1
    first, left = k % groups * length, k // groups * STRIP
    last, width = min(first + length, tokens), min(STRIP, d - left)
    mine = sums[who]
    mine[: last - first, :] = 0
    for b in range(0, blocks, together):
        end = min(b + together, blocks)
        for m in range(first, last):
            low, high = start[m] + offset[m, b], start[m] + offset[m, end]
            add_list(mine, m - first, 0, rows, left, width, neuron, weight, low, high, False)
    for m in range(first, last):
        for j in range(width):
            out[m, left + j] = mine[m - first, j] + bias[left + j]


@kernel()
def add_rows(start: Any, offset: Any, neuron: Any, weight: Any, rows: Any, bias: Any, out: Any,
             team: Any) -> None:  # fmt: skip
    """out[m] = bias + the sum of weight[p] rows[neuron[p]] over token m's list.

    weight: (n,) float32; rows: (d_ff, d) float32, or bfloat16 in uint16; bias: (d,) and out:
    (tokens, d) float32. Every column is summed in the neurons' order, in one grouping.
    """
    tokens, d = out.shape
    groups = -(-tokens // _TOKENS)  # of even length: few read the rows less often
    length = -(-tokens // groups)
    together = max(1, min(_TOGETHER_BYTES // (4 * d * BLOCK), offset.shape[1] // 4))
    sums = np.empty((max(team[1], 1), length, STRIP), np.float32)
    pieces = -(-d // STRIP) * -(-tokens // length)
    arguments = (length, together, start, offset, neuron, weight, rows, bias, out, sums)
    spread(_strip, team, pieces, arguments)
