"""Activation and second product for many tokens: only the rows of W2 whose neuron is active.

z comes from a dense first product. Each token's active neurons are listed, and their values summed,
as in training: see `active`.
"""

from typing import Any

import numpy as np

from reluctant.kernels.active import BLOCK, add_rows, count, fill, hidden
from reluctant.kernels.compile import kernel


@kernel()
def combine(z: Any, threshold: float, code: int, values: Any, bias: Any, limit: float, out: Any,
            team: Any) -> int:  # fmt: skip
    """out = f(z) @ values + bias over the active neurons. Their number, or -1 if above `limit`.

    z: (m, d_ff); values: (d_ff, d); bias: (d,); out: (m, d); all float32, C-contiguous.
    threshold: f is exactly zero at and below it; code: which f (`codes`).
    limit: the largest share of active neurons that is served; above it, `out` is not written.
    """
    tokens, d_ff = z.shape
    start = np.empty(tokens + 1, np.int64)
    active = count(z, threshold, 0.0, 0, start, team)
    if active > limit * tokens * d_ff:
        return -1
    offset = np.empty((tokens, -(-d_ff // BLOCK) + 1), np.int32)
    neuron, kept = np.empty(active, np.int32), np.empty(active, np.float32)
    fill(z, threshold, 0.0, 0, start, offset, neuron, kept, team)
    weight, factor = np.empty(active, np.float32), np.empty(0, np.float32)
    hidden(kept, factor, code, threshold, np.float32(1.0), weight, team)
    add_rows(start, offset, neuron, weight, values, bias, out, team)
    return int(active)
