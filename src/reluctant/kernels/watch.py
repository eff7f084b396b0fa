"""Whether the weights are still those that were sketched, at a glance.

torch tells of most changes; a write through `.data` or NumPy it does not. A few remembered weights
betray a bulk write at once, and each call compares some rows in turn.
"""

from typing import Any

import numpy as np
from numba import njit

from reluctant.kernels.vector import GROUP, TILE

_STRICT: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(fastmath={"reassoc", "contract"}, **_STRICT)
def _squared_distance(key: Any, group: Any, r: int, scale: float) -> Any:
    total = 0.0
    for tile in range(group.shape[0]):
        first = tile * TILE
        for c in range(min(TILE, key.shape[0] - first)):
            off = np.float64(key[first + c]) - scale * np.float64(group[tile, r, c])
            total += off * off
    return total


@njit(**_STRICT)
def row_changed(layer: Any, i: int) -> Any:
    """Whether key i has left its sketch: ||k - s q|| is above the radius."""
    squared = _squared_distance(
        layer.keys[i], layer.q[i // GROUP], i % GROUP, np.float64(layer.scale[i])
    )
    return not (np.sqrt(squared) <= np.float64(layer.radius[i]))


@njit(**_STRICT)
def probes_changed(layer: Any) -> Any:
    """Whether any of the remembered weights has changed: a bulk write shows here at once."""
    flat = layer.keys.reshape(-1)
    changed = False
    for p in range(layer.probe.shape[0]):
        changed |= flat[layer.probe_at[p]] != layer.probe[p]
    return changed
