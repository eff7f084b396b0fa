"""The largest logit of each row, certified: of an output projection only what can be it is read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray

from reluctant.kernels.best import largest
from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import pointer
from reluctant.kernels.lanes import GROUP, QUAD
from reluctant.kernels.linear import run_some
from reluctant.kernels.projection import bounds
from reluctant.kernels.team import ALONE
from reluctant.kernels.watch import part_changed

FOUND, UNDECIDED, STALE = 0, 1, 2


@kernel()
def _list(up: Any, m: int, n: int, least: Any, ids: Any) -> Any:
    """Which may reach `least`, in ids; how many, which may be more than there is room for."""
    count, row = 0, up[m, :n]
    for i in range(row.shape[0]):
        if row[i] >= least and row[i] > -np.inf:
            if count < ids.shape[0]:
                ids[count] = i
            count += 1
    return count


@kernel()
def _choose(ids: Any, logits: Any, low: Any, up: Any, m: int) -> Any:
    """The place of the largest logit, the first of equals; -1 if one is NaN, -2 if one is not
    between its bounds."""
    best = 0
    nan = stale = False
    for p in range(ids.shape[0]):
        y, i = logits[0, p], ids[p]
        nan |= np.isnan(y)
        stale |= not (low[m, i] <= y <= up[m, i]) and up[m, i] < np.inf
        if y > logits[0, best]:
            best = p
    return -2 if stale else -1 if nan else best


@kernel()
def run(
    x: Any, q: Any, scale: Any, radius: Any, own_norm: Any, row_sum: Any, centre: Any,
    max_norm: float, slack: float, in_integers: bool, weight: Any, bias: Any, corner: Any,
    sums: Any, turn: int, parts: int, left_out: int, most: int, chosen: Any, read: Any, team: Any,
) -> int:  # fmt: skip
    """chosen[m] = argmax of x[m] weight^T + bias, the lowest id of equals; FOUND.

    x ... in_integers: as `projection.bounds` has them, without the biases; x, weight, (n, d), and
    bias, (n,) or (0,): float32. corner, sums, turn, parts: as `watch.part_changed`. left_out: an id
    that is not to be chosen, or -1. read: (rows,) int64, becomes how many logits were computed; of
    more than `most` none is: UNDECIDED, as for NaN. STALE if the weights are not those that were
    sketched.
    """
    if part_changed(weight, corner, sums, turn, parts):
        return STALE
    n, rows = weight.shape[0], x.shape[0]
    padded = scale.shape[0]
    low, up = np.empty((rows, padded), np.float32), np.empty((rows, padded), np.float32)
    biases = np.zeros(padded, np.float32)
    for i in range(bias.shape[0]):
        biases[i] = bias[i]
    bounds(x, q, scale, radius, own_norm, row_sum, biases, centre, max_norm, slack, in_integers,
           low, up, team)  # fmt: skip
    ids = np.empty(most, np.int64)
    for m in range(rows):
        for i in range(n, padded):
            low[m, i] = -np.inf
        if left_out >= 0:
            low[m, left_out] = up[m, left_out] = -np.inf
        count = _list(up, m, n, largest(low, m), ids)
        if not 0 < count <= most:
            return UNDECIDED
        logits = np.empty((1, count), np.float32)
        run_some(x, m, weight, ids[:count], bias, logits, ALONE)
        at = _choose(ids[:count], logits, low, up, m)
        if at < 0:
            return STALE if at == -2 else UNDECIDED
        chosen[m], read[m] = ids[at], count
    return FOUND


def table_of(arrays: Sequence[Any], weight: Any, numbers: Sequence[float]) -> tuple[Any, Any]:
    """What `run_at` takes first. The arrays, which have to outlive it: q, scale, radius, own_norm,
    row_sum, centre, corner, sums. numbers: max_norm, slack, in_integers, parts."""
    q = arrays[0]
    addresses = [array.ctypes.data for array in (*arrays, weight)]
    max_norm, slack, *integers = numbers
    table = np.array([*addresses, *q.shape[:2], *weight.shape, *map(int, integers)], np.int64)
    return table, np.array([max_norm, slack])


@kernel()
def run_at(
    table: Any, numbers: Any, x_at: int, rows: int, bias_at: int, turn: int, left_out: int,
    most: int, chosen: Any, read: Any, team: Any,
) -> int:  # fmt: skip
    """`run` by addresses, which costs least; x: (rows, d), bias_at: 0 for none."""
    at = table
    groups, quads, n, d, in_integers, parts = at[9], at[10], at[11], at[12], at[13], at[14]
    padded, biases = groups * GROUP, 0 if bias_at == 0 else n
    status: int = run(
        carray(pointer(x_at, np.float32), (rows, d)),
        carray(pointer(at[0], np.int8), (groups, quads, GROUP, QUAD)),
        carray(pointer(at[1], np.float32), (padded,)),
        carray(pointer(at[2], np.float32), (padded,)),
        carray(pointer(at[3], np.float32), (padded,)),
        carray(pointer(at[4], np.int32), (padded,)),
        carray(pointer(at[5], np.float32), (d,)),
        numbers[0],
        numbers[1],
        in_integers != 0,
        carray(pointer(at[8], np.float32), (n, d)),
        carray(pointer(bias_at, np.float32), (biases,)),
        carray(pointer(at[6], np.float32), (n,)),
        carray(pointer(at[7], np.uint64), (n,)),
        turn,
        parts,
        left_out,
        most,
        chosen,
        read,
        team,
    )
    return status
