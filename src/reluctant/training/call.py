"""What a step is asked for, and what it is in torch's own operations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reluctant.activations import Activation

DTYPES = (torch.float32, torch.bfloat16)


class Weights(NamedTuple):
    """W1 as keys (d_ff, d_model), b1, `down.weight` (d_model, d_ff), b2, the gate's two: as
    `Neurons.tensors` gives them."""

    w1: Tensor
    b1: Tensor | None
    w2: Tensor
    b2: Tensor | None
    wg: Tensor | None = None
    bg: Tensor | None = None

    @property
    def fires(self) -> tuple[Tensor, Tensor | None]:
        """The rows and biases that feed the activation."""
        return (self.w1, self.b1) if self.wg is None else (self.wg, self.bg)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Weights":
        """With every tensor changed."""
        w1, b1, w2, b2, wg, bg = (None if t is None else change(t) for t in self)
        assert w1 is not None
        assert w2 is not None
        return Weights(w1, b1, w2, b2, wg, bg)


@dataclass(frozen=True)
class Call:
    """What a call of the layer is to do besides the weights.

    activation: one of which the kernels know the slope. drop: the probability of dropping an
    element of the hidden vector. limit: the share of active neurons up to which the products go
    over these only; screen: the one up to which a sketch finds them, in the place of a dense first
    product. sized: whether somebody wants the sum of |h|, which is 0 otherwise. seen: is told,
    once a call, how many pairs of token and neuron were counted (0: none), how many were active,
    and whether the products go over these.
    """

    activation: Activation
    limit: float
    screen: float = 0.0
    drop: float = 0.0
    sized: bool = False
    seen: Callable[[int, int, bool], object] = lambda pairs, active, sparse: None

    @property
    def scale(self) -> float:
        """Of what dropout lets be."""
        return 1 / (1 - self.drop) if self.drop < 1 else 0.0


def unserved(x: Tensor, weights: Weights) -> str:
    """Why such tensors are left to torch; "" if they are not."""
    given = [t for t in (x, *weights) if t is not None]
    if any(t.dtype is not x.dtype for t in given) or x.dtype not in DTYPES:
        kinds = sorted({str(t.dtype).removeprefix("torch.") for t in given})
        return f"tensors of {', '.join(kinds)}"
    if not all(t.is_cpu and t.layout is torch.strided for t in given):
        return "tensors that are not on the CPU, or not strided"
    if weights.w1.dim() != 2 or x.dim() == 0:
        return "a first weight that is no matrix, or an input that is a number"
    d_ff, d = weights.w1.shape  # kernels do not check what they read
    shapes = (d_ff, d), (d_ff,), (d, d_ff), (d,), (d_ff, d), (d_ff,)
    for t, shape in [(x, (*x.shape[:-1], d)), *zip(weights, shapes, strict=True)]:
        if t is not None and t.shape != shape:
            return f"a tensor of shape {tuple(t.shape)} where {tuple(shape)} was expected"
    return ""


def plain(
    x: Tensor,
    weights: Weights,
    call: Call,
    drop: Callable[[Tensor], Tensor],
    norm: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The layer, and the sum of |h| if it is wanted, in torch's operations.

    drop: dropout of h, where there is any. norm: what h goes through before the second map.
    """
    h = call.activation(F.linear(x, *weights.fires))
    if weights.wg is not None:
        h = h * F.linear(x, weights.w1, weights.b1)
    if call.drop > 0:
        h = drop(h)
    wide = torch.promote_types(h.dtype, torch.float32)
    size = h.abs().sum(dtype=wide) if call.sized else h.new_zeros((), dtype=wide)
    return F.linear(h if norm is None else norm(h), weights.w2, weights.b2), size


def is_finite(t: Tensor) -> bool:
    """Whether all numbers are; rarely, where their sum overflows, False as well."""
    return bool(t.sum(dtype=torch.float32).isfinite())


def floats(*shape: int) -> Tensor:
    """Room for float32 numbers.

    In NumPy's memory: of 4 MB on it asks the system for large pages, where torch does not.
    """
    return torch.from_numpy(np.empty(shape, np.float32))
