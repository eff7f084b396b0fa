"""Rows to int8: the arithmetic of `reluctant.sketch`."""

from typing import Any

import numpy as np

from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import as_float
from reluctant.kernels.lanes import GROUP, QUAD
from reluctant.kernels.team import spread


@kernel(reordered=True)
def _norms(row: Any, centre: Any, q: Any, scale: float) -> Any:
    """||k - c - s q||, ||s q||, ||k|| in float64, where s q is exact, and the rest if c is 0."""
    off, own, key = 0.0, 0.0, 0.0
    for j in range(row.shape[0]):
        k, s = np.float64(as_float(row[j])), scale * np.float64(q[j])
        left = k - np.float64(centre[j]) - s
        off += left * left
        own += s * s
        key += k * k
    return np.sqrt(off), np.sqrt(own), np.sqrt(key)


@kernel()
def _quantise_row(row: Any, centre: Any, tiniest: float, q: Any) -> Any:
    """Writes q; gives the scale, 0 where the row is too small to be sketched."""
    largest = np.float32(0.0)
    for j in range(row.shape[0]):
        largest = max(largest, abs(as_float(row[j]) - centre[j]))
    scale = np.float32(largest / np.float32(127.0))
    if not scale >= tiniest:
        return np.float32(0.0)
    inverse = 1.0 / np.float64(scale)
    for j in range(row.shape[0]):
        # Rounding to the nearest is for tightness only: the proof takes any q.
        steps = np.rint(np.float64(as_float(row[j]) - centre[j]) * inverse)
        q[j] = np.int8(min(max(steps, -127.0), 127.0))
    return scale


@kernel()
def _group(g: int, who: int, rows: Any, centre: Any, tiniest: float, q: Any, scale: Any,
           norms: Any, row_sum: Any) -> None:  # fmt: skip
    line = np.zeros(q.shape[1] * QUAD, np.int8)
    quads = line.view(np.int32)  # moved as one number each, while they are in the cache
    for i in range(g * GROUP, min((g + 1) * GROUP, rows.shape[0])):
        scale[i] = _quantise_row(rows[i], centre, tiniest, line)
        if scale[i] == 0:
            line[:] = 0
        norms[i, 0], norms[i, 1], norms[i, 2] = _norms(rows[i], centre, line, np.float64(scale[i]))
        total = 0
        for j in range(rows.shape[1]):
            total += line[j]
        row_sum[i] = total
        for j in range(quads.shape[0]):
            q[g, j, i - g * GROUP] = quads[j]


@kernel()
def quantise(rows: Any, centre: Any, tiniest: float, q: Any, scale: Any, norms: Any, row_sum: Any,
             team: Any) -> None:  # fmt: skip
    """rows: (n, d) float32, bfloat16 in uint16, or float16 in int16 -> q, scale, norms, row_sum.

    centre: (d,) float32, what is taken from each row first.

    q: (n / 64, d / 4, 64) int32, both rounded up, zeros: four columns of int8 in each, of 64 rows
    on end; scale: (n,) float32; norms: (n, 3) float64; row_sum: (n,) int32, of q's rows. A row
    whose scale would be below `tiniest` has zeros, and scale 0. norms are those of k - centre -
    s q, s q and k.
    """
    spread(_group, team, q.shape[0], (rows, centre, tiniest, q, scale, norms, row_sum))
