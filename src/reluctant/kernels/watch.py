"""Whether the weights are still those that were sketched, at a glance.

torch tells of most changes; a write through `.data` or NumPy it does not. A few remembered weights
betray a bulk write at once, and each call compares some rows in turn.
"""

from typing import Any

import numpy as np

from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import as_float
from reluctant.kernels.lanes import GROUP, QUAD


@kernel(reordered=True)
def _squared_distance(key: Any, group: Any, r: int, scale: float) -> Any:
    total = 0.0
    for j in range(key.shape[0]):
        off = np.float64(as_float(key[j])) - scale * np.float64(group[j // QUAD, r, j % QUAD])
        total += off * off
    return total


@kernel()
def row_changed(layer: Any, i: int) -> Any:
    """Whether row i has left its sketch: ||k - s q|| is above the radius."""
    squared = _squared_distance(
        layer.rows[i], layer.q[i // GROUP], i % GROUP, np.float64(layer.scale[i])
    )
    return not (np.sqrt(squared) <= np.float64(layer.radius[i]))


@kernel()
def watched_changed(layer: Any, lo: int, hi: int, turn: int) -> Any:
    """Whether the row whose turn it is, in turns over the whole layer, is in lo..hi and changed."""
    i = turn % layer.rows.shape[0]
    return lo <= i < hi and row_changed(layer, i)


@kernel()
def probes_changed(layer: Any) -> Any:
    """Whether any of the remembered weights has changed: a bulk write shows here at once."""
    flat = layer.rows.reshape(-1)
    changed = False
    for p in range(layer.probe.shape[0]):
        changed |= flat[layer.probe_at[p]] != layer.probe[p]
    return changed
