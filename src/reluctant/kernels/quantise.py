"""Rows to int8: the arithmetic of `reluctant.sketch`."""

from typing import Any

import numpy as np

from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import as_float
from reluctant.kernels.team import spread

_PIECE = 32  # rows


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
def _quantise(i: int, rows: Any, centre: Any, tiniest: float, q: Any, scale: Any,
              norms: Any) -> None:  # fmt: skip
    scale[i] = _quantise_row(rows[i], centre, tiniest, q[i])
    norms[i, 0], norms[i, 1], norms[i, 2] = _norms(rows[i], centre, q[i], np.float64(scale[i]))


@kernel()
def _rows(k: int, who: int, rows: Any, centre: Any, tiniest: float, q: Any, scale: Any,
          norms: Any) -> None:  # fmt: skip
    for i in range(k * _PIECE, min((k + 1) * _PIECE, rows.shape[0])):
        _quantise(i, rows, centre, tiniest, q, scale, norms)


@kernel()
def quantise(rows: Any, centre: Any, tiniest: float, q: Any, scale: Any, norms: Any,
             team: Any) -> None:  # fmt: skip
    """rows: (n, d) float32, bfloat16 in uint16, or float16 in int16 -> q, scale, norms.

    centre: (d,) float32, what is taken from each row first.

    q: (n, >= d) int8; scale: (n,) float32; norms: (n, 3) float64.
    q comes as zeros; a row whose scale would be below `tiniest` keeps them, and scale 0. norms are
    those of k - centre - s q, s q and k.
    """
    spread(_rows, team, -(-rows.shape[0] // _PIECE), (rows, centre, tiniest, q, scale, norms))
