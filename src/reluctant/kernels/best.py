"""The most probable tokens of each row of logits, and the logarithms of their probabilities."""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from reluctant.kernels.compile import kernel
from reluctant.kernels.team import spread
from reluctant.kernels.vector import F32, I32

_CHUNK = 256  # logits side by side
_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LOWEST = np.float32(-87.0)  # from here on e^x is nothing beside 1
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
# Moshier's Cephes, expf: e^r - 1 - r over r^2 for |r| <= ln(2) / 2.
_TERMS = tuple(
    np.float32(term)
    for term in (
        *(1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3),
        *(4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1),
    )
)


@intrinsic
def _power_of_two(_: Any, k: Any) -> Any:
    """2^k for -126 <= k <= 127, as float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.shl(builder.add(args[0], I32(127)), I32(23))
        return builder.bitcast(bits, F32)

    return types.float32(types.int32), generate


@kernel()
def power(x: Any) -> Any:
    """e^x for a float32 x <= 0, to some 1e-7 of it; 0 below -87; NaN for NaN. Without a branch."""
    seen = x >= _LOWEST
    near = x if seen else _ZERO
    k = np.rint(near * _LOG2_E)
    r = (near - k * _LN2_HIGH) - k * _LN2_LOW
    total = _ZERO
    for term in _TERMS:
        total = total * r + term
    found = (total * r * r + r + _ONE) * _power_of_two(np.int32(k))
    return found if seen else x if x != x else _ZERO  # noqa: PLR0124  NaN


@kernel()
def largest(rows: Any, m: int) -> Any:
    """The largest of rows[m], as far as that is no NaN; -inf if there is none."""
    tops = np.full(_CHUNK, -np.inf, np.float32)
    for first in range(0, rows.shape[1], _CHUNK):
        chunk = rows[m, first : first + _CHUNK]  # its places are plainly not negative
        for c in range(chunk.shape[0]):
            tops[c] = chunk[c] if chunk[c] > tops[c] else tops[c]
    top = tops[0]
    for c in range(_CHUNK):
        top = tops[c] if tops[c] > top else top
    return top


@kernel()
def _total(logits: Any, m: int, top: Any) -> Any:
    """The sum of e^(logits[m] - top), in one order: halves onto halves, chunk by chunk."""
    total, powers = 0.0, np.empty(_CHUNK, np.float32)
    for first in range(0, logits.shape[1], _CHUNK):
        chunk = logits[m, first : first + _CHUNK]
        for c in range(chunk.shape[0]):
            powers[c] = power(chunk[c] - top)
        for c in range(chunk.shape[0], _CHUNK):
            powers[c] = 0
        half = _CHUNK // 2
        while half > 0:
            upper = powers[half:]
            for c in range(half):
                powers[c] += upper[c]
            half //= 2
        total += np.float64(powers[0])
    return total


@kernel()
def _take(logits: Any, m: int, ids: Any, gains: Any) -> None:
    """ids[m], gains[m]: the largest of logits[m], falling, of equals the lowest id first."""
    k, count, row = ids.shape[1], 0, logits[m]
    for i in range(row.shape[0]):
        y = row[i]
        if count == k and not y > gains[m, k - 1]:
            continue
        p = min(count, k - 1)
        while p > 0 and gains[m, p - 1] < y:
            ids[m, p], gains[m, p] = ids[m, p - 1], gains[m, p - 1]
            p -= 1
        ids[m, p], gains[m, p] = i, y
        count = min(count + 1, k)


@kernel()
def _row(m: int, who: int, logits: Any, left_out: int, counts: bool, ids: Any, gains: Any) -> None:
    if left_out >= 0 and not counts:
        logits[m, left_out] = -np.inf
    top = largest(logits, m)
    total = _total(logits, m, top)
    if left_out >= 0:
        logits[m, left_out] = -np.inf
    _take(logits, m, ids, gains)
    for p in range(ids.shape[1]):
        if np.isnan(total):  # as of a NaN, or of infinity less itself
            ids[m, p], gains[m, p] = p, np.nan
        else:
            gains[m, p] = np.float32(np.float64(gains[m, p]) - np.float64(top) - np.log(total))


@kernel()
def run(logits: Any, left_out: int, counts: bool, ids: Any, gains: Any, team: Any) -> None:
    """The k largest of log softmax(logits), of each row, falling; of equals the lowest id first.

    logits: (rows, n) float32; left_out: an id that is not among them, or -1, whose logit is
    overwritten; counts: whether it has its share in the probabilities. ids, gains: (rows, k) int64
    and float32, k <= n. Of a row with a NaN in it, all are NaN.
    """
    spread(_row, team, logits.shape[0], (logits, left_out, counts, ids, gains))
