"""A root-mean-square norm of the hidden vector, from its active neurons alone (BitNet's).

A neuron that is exactly zero adds nothing to the mean of the squares, and stays zero.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import as_float


class Norm(NamedTuple):
    """h_i becomes weight_i h_i / sqrt(mean(h^2) + eps).

    weight: (d_ff,) float32, or bfloat16 in uint16; empty: no norm. eps: above zero.
    """

    weight: npt.NDArray[Any]
    eps: float


@kernel()
def normalise(norm: Any, neurons: Any, h: Any, lengths: Any) -> Any:
    """Normalises every token's list of active neurons, in the list's order.

    neurons, h: (tokens, d_ff) int32 and float32, of which lengths, (tokens,), count. False, and
    nothing done, if a weight is not finite: it would make NaN of the zeros that no list has.
    """
    d_ff = norm.weight.shape[0]
    finite = True
    for i in range(d_ff):
        finite &= abs(as_float(norm.weight[i])) < np.inf
    if not finite:
        return False
    for m in range(lengths.shape[0]):
        total = 0.0
        for p in range(lengths[m]):
            total += np.float64(h[m, p] * h[m, p])  # in float32, which overflows where torch's does
        mean = np.float64(np.float32(total)) / d_ff
        scale = np.float32(1.0 / np.sqrt(mean + norm.eps))
        for p in range(lengths[m]):
            h[m, p] = as_float(norm.weight[neurons[m, p]]) * (h[m, p] * scale)
    return True
