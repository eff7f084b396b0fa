"""Layer normalisation (Ba et al. 2016) of rows, with what a residual connection adds before it."""

from typing import Any

import numpy as np

from reluctant.kernels.compile import kernel

_CHAINS = 32  # partial sums side by side: one would wait for itself


@kernel()
def add(x: Any, y: Any) -> None:
    """x += y, both (d,) float32."""
    for j in range(x.shape[0]):
        x[j] += y[j]


@kernel()
def _joined(sums: Any) -> Any:
    """Halves onto halves."""
    half = _CHAINS // 2
    while half > 0:
        upper = sums[half:]
        for c in range(half):
            sums[c] += upper[c]
        half //= 2
    return sums[0]


@kernel()
def layer_norm(x: Any, weight: Any, bias: Any, eps: float, out: Any) -> None:
    """out = (x - mean) / sqrt(variance + eps) weight + bias, in float64, rounded once.

    x, out, which may be the same, and weight: (d,) float32; bias: likewise, or (0,) for none.
    """
    d = x.shape[0]
    sums = np.zeros(_CHAINS)
    for first in range(0, d, _CHAINS):
        chunk = x[first : first + _CHAINS]
        for c in range(chunk.shape[0]):
            sums[c] += np.float64(chunk[c])
    mean = _joined(sums) / d
    for c in range(_CHAINS):
        sums[c] = 0.0
    for first in range(0, d, _CHAINS):
        chunk = x[first : first + _CHAINS]
        for c in range(chunk.shape[0]):
            off = np.float64(chunk[c]) - mean
            sums[c] += off * off
    scale = 1.0 / np.sqrt(_joined(sums) / d + eps)
    if bias.size > 0:
        for j in range(d):
            value = (np.float64(x[j]) - mean) * scale * np.float64(weight[j])
            out[j] = np.float32(value + np.float64(bias[j]))
    else:
        for j in range(d):
            out[j] = np.float32((np.float64(x[j]) - mean) * scale * np.float64(weight[j]))
