"""Tells elementwise functions apart by their values."""

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

_KINKS = (-3.0, 0.0, 1.0, 6.0)  # of the usual activations
_SHAPES = ((), (1,), (2, 3), (1, 2, 5))  # of what a function is called with, besides the whole grid


def grid(dtype: torch.dtype, points: Iterable[float]) -> Tensor:
    """Values dense in [-8, 8], both ends of the dtype's range and all sizes between, NaN and the
    infinities, and the surroundings of `points`.

    Returns a 1-d CPU tensor of `dtype`. The kinks of the usual activations are points, too.
    """
    info, wide = torch.finfo(dtype), partial(torch.tensor, dtype=torch.float64, device="cpu")
    corners = wide([*_KINKS, *points])
    ends = math.log10(info.tiny), math.log10(info.max)
    sizes = torch.logspace(*ends, 1201, dtype=torch.float64, device="cpu").clamp(max=info.max)
    sizes = torch.cat([sizes, wide([0.0, 1e-30, 1e-12, 1e-6, 1e-3, 1e2, 1e4, info.max, torch.inf])])
    parts = [
        torch.linspace(-8, 8, 1601, dtype=torch.float64, device="cpu"),
        torch.linspace(-40, 40, 161, dtype=torch.float64, device="cpu"),
        *(sizes, -sizes, wide([torch.nan])),
        *(corners * (1 + k * info.eps) for k in (-2, -1, 0, 1, 2)),
        *(corners + step for step in (-1e-3, -1e-6, 1e-6, 1e-3)),
    ]
    return torch.cat(parts).to(dtype)


def numbers(live: object) -> set[float]:
    """The numbers that a function or module holds, with both signs: where it may bend."""
    held: list[object] = []
    if isinstance(live, nn.Module):
        held += live.__dict__.values()
        live = type(live).forward
    if isinstance(live, partial):
        held += [*live.args, *live.keywords.values()]
        live = live.func
    if code := getattr(live, "__code__", None):
        held += code.co_consts
        held += getattr(live, "__defaults__", None) or ()
        held += (getattr(live, "__kwdefaults__", None) or {}).values()
        held += (cell.cell_contents for cell in getattr(live, "__closure__", None) or ())
    found = {float(n) for n in held if type(n) in (int, float) and abs(n) < 1e300}  # type: ignore[arg-type]
    return found | {-n for n in found}


def evaluate(function: Callable[[Tensor], object], z: Tensor) -> Tensor:
    """Return function(z), z unharmed. Raises TypeError unless shape and dtype are kept."""
    y = function(z.clone())  # a clone, as the function may work in place
    if not isinstance(y, Tensor) or y.shape != z.shape or y.dtype != z.dtype:
        raise TypeError("not an elementwise function from Tensor to Tensor of the same dtype")
    return y


def pieces(z: Tensor) -> list[Tensor]:
    """Some of z's values in tensors of other shapes and sizes."""
    counts = [torch.Size(shape).numel() for shape in _SHAPES]
    return [z[:: len(z) // n][:n].reshape(s) for n, s in zip(counts, _SHAPES, strict=True)]


def close(ours: Tensor, theirs: Tensor, z: Tensor) -> Tensor:
    """Where two values of f(z) are equal but for rounding: 1e-12 relative in float64.

    The absolute term is for activations that cancel, such as gelu, z/2 (1 + erf(z/sqrt 2)), at -8;
    none does so where |z| is large. Infinities are close to themselves.
    """
    eps = torch.finfo(z.dtype).eps
    slack = max(1e-12, 16 * eps) * ours.abs() + 8 * eps * z.abs().clamp(max=64)
    slack += 4 * torch.finfo(z.dtype).smallest_normal * eps  # where numbers have few bits left
    return ((theirs - ours).abs() <= slack) & ours.isfinite() | (theirs == ours)
