"""Tells elementwise functions apart by their values."""

from collections.abc import Callable

import torch
from torch import Tensor


def grid(dtype: torch.dtype, points: list[float]) -> Tensor:
    """Values dense in [-8, 8], some tiny and large ones, NaN, and the surroundings of `points`.

    Returns a 1-d CPU tensor of `dtype`. The kinks of the usual activations are points, too.
    """
    kinks = [-3.0, 0.0, 1.0, 6.0, *points]
    corners = torch.tensor(kinks, dtype=torch.float64, device="cpu").to(dtype)
    extremes = [0.0, 1e-30, 1e-12, 1e-6, 1e-3, 1e2, 1e4]
    parts = [
        torch.linspace(-8, 8, 1601, dtype=dtype, device="cpu"),
        torch.linspace(-40, 40, 161, dtype=dtype, device="cpu"),
        torch.tensor([*extremes, *(-e for e in extremes), torch.nan], dtype=dtype, device="cpu"),
        *(corners * (1 + k * torch.finfo(dtype).eps) for k in (-2, -1, 0, 1, 2)),
        *(corners + step for step in (-1e-3, -1e-6, 1e-6, 1e-3)),
    ]
    return torch.cat(parts)


def evaluate(function: Callable[[Tensor], object], z: Tensor) -> Tensor:
    """Return function(z), z unharmed. Raises TypeError unless shape and dtype are kept."""
    y = function(z.clone())  # a clone, as the function may work in place
    if not isinstance(y, Tensor) or y.shape != z.shape or y.dtype != z.dtype:
        raise TypeError("not an elementwise function from Tensor to Tensor of the same dtype")
    return y


def close(ours: Tensor, theirs: Tensor, z: Tensor) -> Tensor:
    """Where two values of f(z) are equal but for rounding: 1e-12 relative in float64.

    The absolute term is for activations that cancel, such as gelu, z/2 (1 + erf(z/sqrt 2)), at -8.
    """
    eps = torch.finfo(z.dtype).eps
    slack = max(1e-12, 16 * eps) * ours.abs() + 8 * eps * z.abs()
    return (theirs - ours).abs() <= slack
