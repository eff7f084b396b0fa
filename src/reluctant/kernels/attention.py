"""Attention, each query by itself: its bits go by the keys it sees, in their order, alone.

Keys that a mask hides are passed over, not multiplied by zero. So neither padding, wherever it
stands, nor other queries and sentences change a bit. The exponential is our own, of additions and
multiplications that IEEE 754 rounds alike in vectors and one by one; a library's is not.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import as_float, pointer, put_rounded
from reluctant.kernels.pairs import key_dot
from reluctant.kernels.rows import CHUNK, add_list
from reluctant.kernels.team import spread
from reluctant.kernels.vector import I64

_LOG2_E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10
_LOWEST = -700.0  # e^x is nothing beside 1 from here on
_TAYLOR = tuple(1.0 / math.factorial(n) for n in range(13, -1, -1))


@intrinsic
def _power_of_two(_: Any, k: Any) -> Any:
    """2^k for -1022 <= k <= 1023, as float64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.shl(builder.add(args[0], I64(1023)), I64(52))
        return builder.bitcast(bits, ir.DoubleType())

    return types.float64(types.int64), generate


@kernel()
def exponential(x: float) -> Any:
    """e^x for x <= 0, to some 1e-15 of it; 0 below -700; NaN for NaN.

    Without a branch, so that a loop of them becomes vectors.
    """
    seen = x >= _LOWEST
    near = x if seen else 0.0
    k = np.rint(near * _LOG2_E)
    r = (near - k * _LN2_HIGH) - k * _LN2_LOW
    total = 0.0
    for c in _TAYLOR:  # Horner's way: |r| <= ln(2) / 2
        total = total * r + c
    found = total * _power_of_two(np.int64(np.int32(k)))
    return found if seen else x * 0.0 if x != x else 0.0  # noqa: PLR0124  NaN


@kernel()
def _weights(scores: Any, count: int) -> None:
    """scores[:count] becomes softmax of itself."""
    largest, total, powers = np.float32(-np.inf), 0.0, np.empty(count)
    for p in range(count):
        largest = max(largest, scores[p])
    for p in range(count):
        powers[p] = exponential(np.float64(scores[p]) - np.float64(largest))
    for p in range(count):
        total += powers[p]
    for p in range(count):
        scores[p] = np.float32(powers[p] / total)


@kernel()
def look(x: Any, k: Any, v: Any, k_row: Any, v_row: Any, scores: Any, count: int,
         sums: Any) -> None:  # fmt: skip
    """sums[0] = softmax(x[0] k^T / sqrt(d) + scores) v, of so many listed rows of k and v.

    x, sums: (1, d) float32; k, v: (., d); k_row, v_row, scores: (>= count,) int32 and float32. What
    is added to the scores becomes their softmax.
    """
    d = x.shape[1]
    scale = np.float32(1.0 / np.sqrt(np.float64(d)))
    for p in range(count):
        scores[p] += key_dot(k, k_row[p], x, 0, d) * scale
    _weights(scores, count)
    for j in range(d):
        sums[0, j] = 0
    for lo in range(0, d, CHUNK):
        width = min(CHUNK, d - lo)
        add_list(sums, 0, lo, v, lo, width, v_row, scores, 0, count, True)


@kernel()
def _head(u: int, who: int, q: Any, k: Any, v: Any, mask: Any, s: Any, out: Any) -> None:
    """All queries of one head of one sentence. s: `run`'s sizes."""
    heads, n, m, d = s[1], s[2], s[3], s[4]
    b, h = u // heads, u % heads
    x, sums = np.empty((1, d), np.float32), np.empty((1, d), np.float32)
    k_row, v_row = np.empty(m, np.int32), np.empty(m, np.int32)
    scores = np.empty(m, np.float32)
    for i in range(n):
        row = b * s[5] + h * s[6] + i * s[7]
        for j in range(d):
            x[0, j] = as_float(q[row, j])
        count = 0
        for j in range(min(i + 1, m) if s[18] != 0 else m):
            added = np.float32(0.0)
            if s[19] != 0:
                added = mask[b * s[14] + h * s[15] + i * s[16] + j * s[17]]
                if added == -np.inf:
                    continue
            k_row[count] = b * s[8] + h * s[9] + j * s[10]
            v_row[count] = b * s[11] + h * s[12] + j * s[13]
            scores[count] = added
            count += 1
        look(x, k, v, k_row, v_row, scores, count, sums)
        for j in range(d):
            put_rounded(out, (b * n + i) * heads + h, j, sums[0, j])


@kernel()
def run(kind: Any, q_at: int, k_at: int, v_at: int, mask_at: int, s: Any, out: Any,
        team: Any) -> None:  # fmt: skip
    """out = softmax(q k^T / sqrt(d)) v, of every head.

    kind: an empty array of q's, k's and v's type: float32, bfloat16 in uint16 or float16 in int16;
    at: their addresses, and the mask's, float32, which is added to the scores: -inf where nothing
    is seen. out: (batch * n * heads, d), of that type. s: (23,) int64: batch, heads, n queries, m
    keys, d; steps from one batch, head, position to the next, in rows of d, of q, k and v; the same
    of the mask, and from key to key; whether query i sees the first i + 1 keys only, whether there
    is a mask; and how many rows q, k and v have.
    """
    d = s[4]
    q, k, v = (
        carray(pointer(q_at, kind), (s[20], d)),
        carray(pointer(k_at, kind), (s[21], d)),
        carray(pointer(v_at, kind), (s[22], d)),
    )
    last = (s[0] - 1) * s[14] + (s[1] - 1) * s[15] + (s[2] - 1) * s[16] + (s[3] - 1) * s[17]
    mask = carray(pointer(mask_at, np.float32), (last + 1,))
    spread(_head, team, s[0] * s[1], (q, k, v, mask, s, out))
