"""Rows to int8: the arithmetic of `reluctant.sketch`."""

from typing import Any

import numpy as np

from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import as_float
from reluctant.kernels.team import spread

_PIECE = 32  # rows


@kernel(reordered=True)
def _norms(row: Any, q: Any, scale: float) -> Any:
    """||k - s q||, ||s q||, ||k|| in float64, where k - s q is exact and s q too."""
    off, own, key = 0.0, 0.0, 0.0
    for j in range(row.shape[0]):
        k, s = np.float64(as_float(row[j])), scale * np.float64(q[j])
        off += (k - s) * (k - s)
        own += s * s
        key += k * k
    return np.sqrt(off), np.sqrt(own), np.sqrt(key)


@kernel()
def _quantise_row(row: Any, tiniest: float, q: Any) -> Any:
    """Writes q; gives the scale, 0 where the row is too small to be sketched."""
    largest = np.float32(0.0)
    for j in range(row.shape[0]):
        largest = max(largest, abs(as_float(row[j])))
    scale = np.float32(largest / np.float32(127.0))
    if not scale >= tiniest:
        return np.float32(0.0)
    inverse = 1.0 / np.float64(scale)
    for j in range(row.shape[0]):
        # Rounding to the nearest is for tightness only: the proof takes any q.
        q[j] = np.int8(min(max(np.rint(np.float64(as_float(row[j])) * inverse), -127.0), 127.0))
    return scale


@kernel()
def _quantise(i: int, rows: Any, tiniest: float, q: Any, scale: Any, norms: Any) -> None:
    scale[i] = _quantise_row(rows[i], tiniest, q[i])
    norms[i, 0], norms[i, 1], norms[i, 2] = _norms(rows[i], q[i], np.float64(scale[i]))


@kernel()
def _rows(k: int, who: int, rows: Any, tiniest: float, q: Any, scale: Any, norms: Any) -> None:
    for i in range(k * _PIECE, min((k + 1) * _PIECE, rows.shape[0])):
        _quantise(i, rows, tiniest, q, scale, norms)


@kernel()
def quantise(rows: Any, tiniest: float, q: Any, scale: Any, norms: Any, team: Any) -> None:
    """rows: (n, d) float32, bfloat16 in uint16, or float16 in int16 -> q, scale, norms.

    q: (n, >= d) int8; scale: (n,) float32; norms: (n, 3) float64.
    q comes as zeros; a row whose scale would be below `tiniest` keeps them, and scale 0. norms are
    those of k - s q, s q and k.
    """
    spread(_rows, team, -(-rows.shape[0] // _PIECE), (rows, tiniest, q, scale, norms))
