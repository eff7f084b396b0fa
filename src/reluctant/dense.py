"""The dense way: both products in full, for few rows by our own kernel, for more by oneDNN where
PyTorch lets it be called.

`torch.ops.mkldnn._linear_pointwise` is what Inductor emits for a linear map with an activation. It
takes plain weights as well as transposed views, so the engine's one storage serves it. It is
private to PyTorch: where it is missing or refuses, `F.linear` does the work.

Its fused ReLU turns NaN into 0 (so do its clamps), where torch keeps NaN: ReLUs are therefore
applied by torch, after the product.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reluctant import linear as few
from reluctant.activations import Activation, resolve
from reluctant.narrow import Narrow

_POINTWISE: Callable[..., Tensor] | None = getattr(torch.ops.mkldnn, "_linear_pointwise", None)

# Below this many rows of x, and for weights this small, MKL is the faster one: oneDNN packs the
# weights again in each call. Large weights gain earlier.
_FUSED_ROWS = 16
_FUSED_WEIGHTS = 2**19
_LARGE_ROWS, _LARGE_WEIGHTS = 8, 2**21

# Activations that oneDNN applies as it goes, and that keep NaN: attribute, scalars, algorithm.
_FUSED: dict[Callable[..., Any], tuple[str, list[float], str]] = {
    resolve("gelu").function: ("gelu", [], "none"),
    resolve("gelu_tanh").function: ("gelu", [], "tanh"),
    resolve("silu").function: ("swish", [], ""),
    resolve("identity").function: ("none", [], ""),
}

_IN_PLACE: dict[Callable[..., Any], Callable[[Tensor], Tensor]] = {
    resolve("relu").function: torch.relu_,
    resolve("gelu").function: torch.ops.aten.gelu_,
    resolve("gelu_tanh").function: partial(torch.ops.aten.gelu_, approximate="tanh"),
    resolve("silu").function: torch.ops.aten.silu_,
}


def _fusable(x: Tensor, weight: Tensor) -> bool:
    return (
        _POINTWISE is not None
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and _onednn_is_faster(x.numel() // max(x.shape[-1], 1), weight.numel())
        and bool(torch.backends.mkldnn.enabled)
        and _plainly(x, weight)
    )


def _plainly(x: Tensor, weight: Tensor) -> bool:
    """Whether nobody casts and nobody wants gradients."""
    return not torch.is_autocast_enabled("cpu") and not (
        torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    )


def _onednn_is_faster(rows: int, weights: int) -> bool:
    return (rows >= _FUSED_ROWS and weights >= _FUSED_WEIGHTS) or (
        rows >= _LARGE_ROWS and weights >= _LARGE_WEIGHTS
    )


def _activate(z: Tensor, activation: Activation) -> Tensor:
    """activation(z), over z where that can be: a second array as large costs its page faults."""
    in_place = _IN_PLACE.get(activation.function)
    if in_place is None or type(z) is not Tensor or (torch.is_grad_enabled() and z.requires_grad):
        return activation(z)
    return in_place(z)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation | None = None,
    narrow: Narrow | None = None,
) -> Tensor:
    """activation(x weight^T + bias). x: (..., n); weight: (k, n); bias: (k,). Gives (..., k).

    narrow: reads the weight in 16 bits, where that is the same. Without autograd up to 16 rows by
    the kernel for few rows, in float32 by oneDNN, otherwise as torch does it.
    """
    if few.pays(x, weight) and few.serves(x, weight, bias) and _plainly(x, weight):
        read = weight.data if narrow is None else narrow.read()
        z = few.few_rows(x, read, None if bias is None else bias.data)
        return z if activation is None else _activate(z, activation)
    if _fusable(x, weight):
        fused = _FUSED.get(activation.function) if activation else ("none", [], "")
        try:
            y: Tensor = _POINTWISE(x, weight, bias, *(fused or ("none", [], "")))  # type: ignore[misc]
        except RuntimeError:  # a layout or a build that the op does not take
            y, fused = F.linear(x, weight, bias), None
    else:
        y, fused = F.linear(x, weight, bias), None
    return y if fused or activation is None else _activate(y, activation)


# Of one map: weight and bias as in nn.Linear, and what reads the weight in 16 bits.
Part = tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Narrow | None]


def feed_forward(
    x: Tensor,
    up: Part,
    down: Part,
    activation: Activation,
    gate: Part | None = None,
    norm: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The whole layer, densely. x: (..., d_model). norm: what comes to down goes through it first.

    >>> layer = torch.nn.Linear(4, 16), torch.nn.Linear(16, 4)
    >>> up, down = [(part.weight, part.bias) for part in layer]
    >>> feed_forward(torch.zeros(2, 4), up, down, resolve("relu")).shape
    torch.Size([2, 4])
    """
    h = _map(x, gate or up, activation)
    if gate is not None:
        h = h * _map(x, up)
    return _map(h if norm is None else norm(h), down)


def _map(x: Tensor, part: Part, activation: Activation | None = None) -> Tensor:
    weight, bias, *narrow = part
    return linear(x, weight, bias, activation, *narrow)


def plain(
    x: Tensor,
    up: Part,
    down: Part,
    activation: Activation,
    gate: Part | None = None,
    norm: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """`feed_forward` in torch's public operations only, for autograd and compilers."""
    h = activation(F.linear(x, *(gate or up)[:2]))
    if gate is not None:
        h = h * F.linear(x, *up[:2])
    return F.linear(h if norm is None else norm(h), *down[:2])
