"""The Transformer's feed-forward layer, and its gated variants, in plain torch."""

import math
from numbers import Integral, Real

import torch
from torch import Tensor, nn

from reluctant.activations import Activation, resolve
from reluctant.errors import ReluctantError

# The published names of the gated layers, and what goes through which activation there.
GATED = {
    "glu": "sigmoid",
    "reglu": "relu",
    "geglu": "gelu",
    "swiglu": "silu",
    "bilinear": "identity",
}


class FeedForward(nn.Module):
    """Two linear maps with an activation between them, applied to every position on its own.

        down(dropout(activation(up(x))))                 Vaswani et al. 2017, section 3.3, eq. 2
        down(dropout(activation(gate(x)) * up(x)))       gated: Shazeer 2020, "GLU Variants"

    d_model: width of input and output.
    d_ff: width in between, the number of neurons. None: 4 d_model, as in the paper; gated: 8/3
        d_model, which keeps the number of weights, rounded up to a multiple of 64.
    activation: a name (`reluctant.activations.names()`) or an `Activation`. The names "glu",
        "reglu", "geglu", "swiglu" and "bilinear" stand for gated=True with sigmoid, relu, gelu,
        silu and identity.
    gated: one more linear map, `gate`, whose activation multiplies `up`.
    bias: whether the linear maps have one.
    dropout: probability of zeroing an element in between, in training; the original paper has
        none there, most implementations have.
    device, dtype: of the weights, as in nn.Linear.

    `up`, `down` and `gate` are nn.Linear, so the state_dict has up.weight (d_ff, d_model), up.bias
    (d_ff,), down.weight (d_model, d_ff), down.bias (d_model,), and gate like up.

    Raises ReluctantError for sizes that are no positive integers, a dropout outside [0, 1], an
    unknown activation or a dtype that is not floating.

    >>> ffn = FeedForward(512)
    >>> ffn(torch.zeros(2, 7, 512)).shape
    torch.Size([2, 7, 512])
    >>> FeedForward(512, activation="swiglu", bias=False)
    FeedForward(
      d_model=512, d_ff=1408, activation=silu, gated=True
      (up): Linear(in_features=512, out_features=1408, bias=False)
      (gate): Linear(in_features=512, out_features=1408, bias=False)
      (dropout): Dropout(p=0.0, inplace=False)
      (down): Linear(in_features=1408, out_features=512, bias=False)
    )
    """

    up: nn.Linear
    gate: nn.Linear | None
    dropout: nn.Dropout
    down: nn.Linear

    def __init__(
        self,
        d_model: int,
        d_ff: int | None = None,
        activation: str | Activation = "relu",
        *,
        gated: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if isinstance(activation, str) and activation in GATED:
            activation, gated = GATED[activation], True
        self.activation = resolve(activation)
        self.d_model = _size("d_model", d_model)
        if d_ff is None:
            d_ff = 64 * math.ceil(self.d_model / 24) if gated else 4 * self.d_model
        self.d_ff = _size("d_ff", d_ff)
        self.gated = bool(gated)
        if not isinstance(dropout, Real) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ReluctantError(f"dropout: expected a probability in [0, 1], got {dropout!r}")
        if dtype is not None and not dtype.is_floating_point:
            raise ReluctantError(
                f"dtype: expected a floating one such as torch.float32, got {dtype}"
            )

        def linear(d_in: int, d_out: int) -> nn.Linear:
            return nn.Linear(d_in, d_out, bias, device, dtype)

        self.up = linear(self.d_model, self.d_ff)
        self.gate = linear(self.d_model, self.d_ff) if self.gated else None
        self.dropout = nn.Dropout(float(dropout))
        self.down = linear(self.d_ff, self.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., d_model) to the same shape; any number of leading dimensions, also none.

        x has the weights' dtype, or under torch.autocast any floating one; the result has it too.
        Raises ReluctantError for another last dimension or dtype.
        """
        self._check(x)
        if self.gate is None:
            hidden = self.activation(self.up(x))
        else:
            hidden = self.activation(self.gate(x)) * self.up(x)
        out: Tensor = self.down(self.dropout(hidden))
        return out

    def _check(self, x: Tensor) -> None:
        """Compares metadata only, so a compiler settles all of it while it traces.

        Nothing is read that runs code: a parametrized weight would be computed once more. A first
        map that is not torch's plain one says itself what it takes.
        """
        weight = _plain_weight(self.up)
        if weight is None:
            return
        if not isinstance(x, Tensor):
            if hasattr(x, "__torch_function__"):
                return  # a tracer's stand-in
            raise ReluctantError(f"FeedForward takes a tensor (..., {self.d_model}), got {type(x)}")
        if x.dim() == 0 or x.size(-1) != self.d_model:
            shape = "a nested tensor" if x.is_nested else tuple(x.shape)
            raise ReluctantError(
                f"FeedForward: expected an input of shape (..., {self.d_model}), got {shape}; "
                "the features are the last dimension: transpose the input, or build the layer "
                "with d_model set to that dimension"
            )
        if not x.is_floating_point():
            raise ReluctantError(
                f"FeedForward: expected a floating-point input, got {x.dtype}; "
                "convert it, x.to(weight.dtype), or embed it first if it holds token ids"
            )
        dtype = weight.dtype
        if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
            raise ReluctantError(
                f"FeedForward: the input is {x.dtype}, the weights are {dtype}; convert one "
                f"(x.to({dtype}) or layer.to({x.dtype})), or use torch.autocast"
            )

    def extra_repr(self) -> str:
        return (
            f"d_model={self.d_model}, d_ff={self.d_ff}, "
            f"activation={self.activation.name}, gated={self.gated}"
        )


def _plain_weight(linear: nn.Module) -> Tensor | None:
    """The weight of a Linear that has nothing of someone else's: parametrizations, hooks, shards,
    a forward of its own (which may convert the input, or the weight).
    """
    if type(linear) is not nn.Linear or linear._forward_pre_hooks or "forward" in linear.__dict__:
        return None
    weight = linear._parameters.get("weight")
    if type(weight) is not nn.Parameter or not weight.is_floating_point():
        return None
    return weight


def _size(name: str, value: int) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value <= 0:
        raise ReluctantError(f"{name}: expected a positive integer, got {value!r}")
    return int(value)
