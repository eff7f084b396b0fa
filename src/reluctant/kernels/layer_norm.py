"""Layer normalisation (Ba et al. 2016) of rows, with what a residual connection adds before it."""

from typing import Any

import numpy as np

from reluctant.kernels.compile import kernel

_CHAINS = 8  # partial sums side by side: one would wait for itself


@kernel()
def add(x: Any, y: Any, m: int) -> None:
    """x[m] += y[m]."""
    for j in range(x.shape[1]):
        x[m, j] += y[m, j]


@kernel()
def layer_norm(x: Any, m: int, weight: Any, bias: Any, eps: float, out: Any) -> None:
    """out[m] = (x[m] - mean) / sqrt(variance + eps) weight + bias, in float64, rounded once.

    x, out: (., d) float32, which may be the same; weight: (d,); bias: (d,), or (0,) for none.
    """
    d = x.shape[1]
    sums = np.zeros(_CHAINS)
    for first in range(0, d, _CHAINS):
        for c in range(min(_CHAINS, d - first)):
            sums[c] += np.float64(x[m, first + c])
    total = 0.0
    for c in range(_CHAINS):
        total += sums[c]
        sums[c] = 0.0
    mean = total / d
    for first in range(0, d, _CHAINS):
        for c in range(min(_CHAINS, d - first)):
            off = np.float64(x[m, first + c]) - mean
            sums[c] += off * off
    total = 0.0
    for c in range(_CHAINS):
        total += sums[c]
    scale = 1.0 / np.sqrt(total / d + eps)
    for j in range(d):
        value = (np.float64(x[m, j]) - mean) * scale * np.float64(weight[j])
        if bias.size > 0:
            value += np.float64(bias[j])
        out[m, j] = np.float32(value)
