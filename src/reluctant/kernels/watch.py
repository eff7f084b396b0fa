"""Whether the weights are still those that sketch and copies were made of: a look at each call.

torch tells of most changes; a write through `.data` or NumPy, or by another process, it does not.
So each call compares some of the live weights, as they lie in memory, with what stood there: one
weight of every row; where rows are copies of columns, one of every column as well; and, in turns,
all of one row.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from reluctant.kernels.compile import kernel


class Watched(NamedTuple):
    """A layer's matrices in the live memory, and what stood there.

    live_gates, live_factors, live_values: the matrix whose product goes through the activation, a
    gated layer's keys, and the values: (d_ff, d_model), or (d_model, d_ff) where the kernels read
    copies of the columns; (0, m) if it is not to be watched. The rest has a row for each of them:
    copied: (3,) int64, whether the kernels read copies; corner: (3, n'), entry r % m of each
    stored row r; first: (3, d_ff), of a copied one stored row 0; sums: (3, n') uint64, `row_sum` of
    each stored row.
    """

    live_gates: npt.NDArray[Any]
    live_factors: npt.NDArray[Any]
    live_values: npt.NDArray[Any]
    copied: npt.NDArray[np.int64]
    corner: npt.NDArray[Any]
    first: npt.NDArray[Any]
    sums: npt.NDArray[np.uint64]


@intrinsic
def _bits(_: Any, value: Any) -> Any:
    """A float32's bits, or those of 16: NaN is compared like every other number."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (given,) = args
        if value == types.float32:
            given = builder.bitcast(given, ir.IntType(32))
        return builder.zext(given, ir.IntType(64))

    return types.uint64(value), generate


@kernel()
def row_sum(row: Any) -> Any:
    """A number that changes if any entry does, or if two change places."""
    total = np.uint64(0)
    for j in range(row.shape[0]):
        total += _bits(row[j]) * np.uint64(2 * j + 1)
    return total


@kernel()
def remember(stored: Any, copied: int, corner: Any, first: Any, sums: Any) -> None:
    """Writes down what `_changed` compares."""
    for r in range(stored.shape[0]):
        corner[r] = stored[r, r % stored.shape[1]]
        sums[r] = row_sum(stored[r])
    if copied != 0 and stored.shape[0] > 0:
        for i in range(stored.shape[1]):
            first[i] = stored[0, i]


@kernel()
def _changed(stored: Any, k: int, copied: Any, corner: Any, first: Any, sums: Any, lo: int, hi: int,
             turn: int) -> Any:  # fmt: skip
    (rows, width), d_ff = stored.shape, first.shape[1]
    if rows == 0:
        return False
    hi = min(hi, d_ff)
    start, stop = rows * lo // d_ff, rows * hi // d_ff  # the stored rows' share of these neurons
    column, off = start % width, np.uint64(0)
    # Nothing here waits for memory, or for a division: many reads are on their way at once.
    for r in range(start, stop):
        off |= _bits(stored[r, column]) ^ _bits(corner[k, r])
        column = column + 1 if column + 1 < width else 0
    if copied[k] != 0:
        for i in range(lo, hi):
            off |= _bits(stored[0, i]) ^ _bits(first[k, i])
    if lo <= turn % d_ff < hi:
        r = turn % rows
        off |= row_sum(stored[r]) ^ sums[k, r]
    return off != np.uint64(0)


# Inlined: a call would copy all of the layer's array headers, which costs more than the work.
@kernel(inline="always")
def watched_changed(watched: Any, lo: int, hi: int, turn: int) -> Any:
    """Whether a change shows in what belongs to neurons lo..hi.

    watched: `Watched`, or a `Layer`, which has its fields. turn: a counter, by which whole rows
    are compared in turn: of the calls for the parts of a layer, one does.
    """
    then = (watched.copied, watched.corner, watched.first, watched.sums)
    changed = _changed(watched.live_gates, 0, *then, lo, hi, turn)
    changed |= _changed(watched.live_factors, 1, *then, lo, hi, turn)
    changed |= _changed(watched.live_values, 2, *then, lo, hi, turn)
    return changed


@kernel()
def any_changed(
    live_gates: Any, live_factors: Any, live_values: Any, copied: Any, corner: Any, first: Any,
    sums: Any, turn: int,
) -> Any:  # fmt: skip
    """`watched_changed` of a whole layer, for kernels that have no blocks of neurons."""
    watched = Watched(live_gates, live_factors, live_values, copied, corner, first, sums)
    return watched_changed(watched, 0, first.shape[1], turn)


@kernel()
def rows_changed(stored: Any, corner: Any, sums: Any, lo: int, hi: int, turn: int) -> Any:
    """Whether a change shows in a matrix's rows lo..hi: one weight of each, and, if it is the turn
    of one of them, all of that one. The rest as in `part_changed`."""
    rows, width = stored.shape
    column, off = lo % width, np.uint64(0)
    for r in range(lo, hi):
        off |= _bits(stored[r, column]) ^ _bits(corner[r])
        column = column + 1 if column + 1 < width else 0
    r = turn % rows
    if lo <= r < hi:
        off |= row_sum(stored[r]) ^ sums[r]
    return off != np.uint64(0)


@kernel()
def part_changed(stored: Any, corner: Any, sums: Any, turn: int, parts: int) -> Any:
    """Whether a change shows in one of `parts` equal parts of a matrix's rows, by turns.

    For matrices of so many rows that a look at each would take as long as the call. stored: (n, m);
    corner, sums: (n,), as `remember` writes them.
    """
    rows, width = stored.shape
    part, off = turn % parts, np.uint64(0)
    start = rows * part // parts
    column = start % width
    for r in range(start, rows * (part + 1) // parts):
        off |= _bits(stored[r, column]) ^ _bits(corner[r])
        column = column + 1 if column + 1 < width else 0
    r = turn % rows
    return (off | (row_sum(stored[r]) ^ sums[r])) != np.uint64(0)
