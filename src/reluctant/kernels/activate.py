"""The activations that the kernels compute themselves."""

from typing import Any

import numpy as np

from reluctant.kernels.codes import HARDSWISH, RELU2, RELU6
from reluctant.kernels.compile import kernel


@kernel()
def activate(code: int, z: Any) -> Any:
    """f(z) of an active neuron."""
    if code == RELU2:
        return z * z
    if code == RELU6:
        return np.float32(6.0) if z > np.float32(6.0) else z  # keeps NaN
    if code == HARDSWISH:
        raised = z + np.float32(3.0)
        raised = np.float32(6.0) if raised > np.float32(6.0) else raised
        raised = np.float32(0.0) if raised < np.float32(0.0) else raised
        return z * raised / np.float32(6.0)
    return z  # relu; thresholded relu


@kernel()
def slope(code: int, z: Any) -> Any:
    """f'(z) of an active neuron, as torch has it: between its pieces, too."""
    if code == RELU2:
        return np.float32(2.0) * z
    if code == RELU6:
        return np.float32(0.0) if z >= np.float32(6.0) else np.float32(1.0)
    if code == HARDSWISH:
        inside = z / np.float32(3.0) + np.float32(0.5)
        return np.float32(1.0) if z >= np.float32(3.0) else inside
    return np.float32(1.0)


@kernel()
def is_active(code: int, threshold: float, z: Any) -> Any:
    """Whether f(z) may differ from zero. NaN is active, and so is -inf where f(-inf) is NaN."""
    return not (z <= threshold) or (code == HARDSWISH and z == -np.inf)
