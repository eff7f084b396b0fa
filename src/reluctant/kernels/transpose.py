"""Blocks of a matrix turned over, 16 by 16 numbers in registers.

Rows that are a power of two long fall into a few of the cache's sets: number by number, each line
would be thrown out before its next number is wanted. Here every line is read once and written once:
at 1024 columns 4x the speed of a plain loop.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import as_float
from reluctant.kernels.team import spread
from reluctant.kernels.vector import I32, LANES, Emitter

_COLUMNS = 64  # of a piece


def _turned(e: Emitter, rows: list[Any]) -> list[Any]:
    """The columns of 16 vectors: in four steps, each of which exchanges halves of ever more."""
    width = LANES // 2
    while width:
        # Lanes of a and of a partner `width` further down: what is in the wrong half changes sides.
        low = [i if i // width % 2 == 0 else i - width + LANES for i in range(LANES)]
        high = [i + width if i // width % 2 == 0 else i + LANES for i in range(LANES)]
        masks = [ir.Constant(ir.VectorType(I32, LANES), order) for order in (low, high)]
        for k in range(LANES):
            if k // width % 2 == 0:
                pair = rows[k], rows[k + width]
                rows[k], rows[k + width] = (e.b.shuffle_vector(*pair, mask) for mask in masks)
        width //= 2
    return rows


@intrinsic
def _turn(_: Any, a: Any, i: Any, j: Any, b: Any, k: Any, c: Any) -> Any:
    """b[k + s, c + t] = a[i + t, j + s] for s, t < 16. a: 2-D, of any served kind; b: float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args)
        data, width = e.array(0)
        rows = [e.load(e.row(data, width, args[1], t), args[2]) for t in range(LANES)]
        into, wide = e.array(3)
        for s, column in enumerate(_turned(e, rows)):
            e.store(column, e.row(into, wide, args[4], s), args[5])
        return context.get_dummy_value()

    n = types.intp
    return types.void(a, n, n, b, n, n), generate


@kernel()
def turn(a: Any, i: int, j: int, height: int, width: int, b: Any, k: int, c: int) -> None:
    """b[k:][:width, c:][:, :height] = a[i:][:height, j:][:, :width]^T, as float32."""
    whole_rows, whole_columns = height // 16 * 16, width // 16 * 16
    for t in range(0, whole_rows, 16):
        for s in range(0, whole_columns, 16):
            _turn(a, i + t, j + s, b, k + s, c + t)
        for s in range(whole_columns, width):
            for u in range(t, t + 16):
                b[k + s, c + u] = as_float(a[i + u, j + s])
    for u in range(whole_rows, height):
        for s in range(width):
            b[k + s, c + u] = as_float(a[i + u, j + s])


@kernel(reordered=True)
def _sum(numbers: Any) -> Any:
    total = np.float32(0.0)
    for j in range(numbers.shape[0]):
        total += numbers[j]
    return total


@kernel()
def _piece(k: int, who: int, a: Any, b: Any, finite: Any) -> None:
    left = k * _COLUMNS
    width = min(_COLUMNS, a.shape[1] - left)
    turn(a, 0, left, a.shape[0], width, b, left, 0)
    total = np.float32(0.0)
    for r in range(left, left + width):
        total += _sum(b[r])
    finite[k] = abs(total) < np.inf


@kernel()
def turned(a: Any, b: Any, team: Any) -> Any:
    """b = a^T, (n, d) float32 of (d, n). Whether all numbers are finite, or, rarely, False as well
    where their sum overflows."""
    pieces = -(-a.shape[1] // _COLUMNS)
    finite = np.zeros(pieces, np.bool_)
    spread(_piece, team, pieces, (a, b, finite))
    return finite.all()
