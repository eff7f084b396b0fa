"""The weights of one feed-forward layer as rows: a neuron is a key and a value.

One storage serves every way of computing: the value rows are W2 transposed, and W2 stays visible
to the model as their transposed view. Everything is read off the live `nn.Linear`s at each call, so
that a replaced or re-typed parameter is never missed.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from reluctant.errors import ReluctantError

_NO_GATE = {"weight": None, "bias": None}
_steps = 0  # optimizer steps of this process: fused optimizers do not raise a tensor's version


def _count_step(*_: Any) -> None:
    global _steps  # noqa: PLW0603
    _steps += 1


register_optimizer_step_post_hook(_count_step)


def _mark(tensor: Tensor | None) -> tuple[Any, ...] | None:
    if tensor is None:
        return None
    try:
        version = tensor._version
    except RuntimeError:  # made in inference mode
        version = -1
    return (tensor.data_ptr(), version, tensor.dtype, tensor.stride())


def is_norm(module: nn.Module, d_ff: int) -> bool:
    """Whether it has the form of a root-mean-square norm: a weight (d_ff,), an eps, no more."""
    weight = module._parameters.get("weight")
    alone = len(module._parameters) == 1 and not (module._buffers or module._modules)
    return alone and weight is not None and weight.shape == (d_ff,) and eps_of(module) > 0


def eps_of(norm: nn.Module) -> float:
    """Its eps, by the name that transformers gives it or by torch's; 0: there is none to see."""
    found = norm.__dict__.get("variance_epsilon", norm.__dict__.get("eps"))
    return float(found) if isinstance(found, int | float) else 0.0


@dataclass
class Neurons:
    """The layer `down(f(up(x)))`, or gated `down(f(gate(x)) * up(x))`, seen neuron by neuron.

    up, gate: `nn.Linear(d_model, d_ff)`; down: `nn.Linear(d_ff, d_model)`; norm: a root-mean-square
    norm of what comes to down, with a `weight` (d_ff,) and an eps. Raises ReluctantError if their
    sizes or dtypes do not fit together.

    >>> neurons = Neurons(nn.Linear(8, 32), nn.Linear(32, 8))
    >>> neurons.d_model, neurons.d_ff, tuple(neurons.keys.shape), tuple(neurons.values.shape)
    (8, 32, (32, 8), (32, 8))
    """

    up: nn.Linear
    down: nn.Linear
    gate: nn.Linear | None = None
    norm: nn.Module | None = None

    def __post_init__(self) -> None:
        parts = {"up": self.up, "down": self.down} | ({"gate": self.gate} if self.gate else {})
        for name, part in parts.items():
            if not isinstance(part, nn.Linear):
                raise ReluctantError(f"expected nn.Linear as {name}; got {type(part).__name__}")
        d_ff, d_model = self.up.weight.shape
        if tuple(self.down.weight.shape) != (d_model, d_ff):
            raise ReluctantError(
                f"expected down to lead from d_ff = {d_ff} back to d_model = {d_model}: a weight "
                f"of shape {(d_model, d_ff)}; got {tuple(self.down.weight.shape)}"
            )
        if self.gate is not None and self.gate.weight.shape != self.up.weight.shape:
            raise ReluctantError(
                f"expected the gate's weight to have up's shape {(d_ff, d_model)}; got "
                f"{tuple(self.gate.weight.shape)}"
            )
        if self.norm is not None and not is_norm(self.norm, d_ff):
            raise ReluctantError(
                f"expected a norm with an eps and, as its only parameter, a weight of shape "
                f"{(d_ff,)}; got {self.norm!r}"
            )
        kinds = {(p.weight.dtype, p.weight.device) for p in parts.values()}
        if len(kinds) > 1:
            raise ReluctantError(f"expected one dtype and device for the layer; got {kinds}")
        self.first_eps = self.eps  # a norm may go by another number than its attribute

    @property
    def d_model(self) -> int:
        """Length of a key and of a value."""
        return self.up.in_features

    @property
    def d_ff(self) -> int:
        """Number of neurons."""
        return self.up.out_features

    @property
    def keys(self) -> Tensor:
        """(d_ff, d_model): row i is column i of W1."""
        return self.up.weight

    @property
    def values(self) -> Tensor:
        """(d_ff, d_model): row i is row i of W2. A view of `down.weight`, without gradients."""
        return self.down.weight.data.t()  # .data: detach() fails on tensors of inference mode

    @property
    def norm_weight(self) -> Tensor | None:
        """(d_ff,), the norm's, as it is now; None without one."""
        return None if self.norm is None else self.norm._parameters["weight"]

    @property
    def eps(self) -> float:
        """The norm's, as it is now; 0 without one."""
        return 0.0 if self.norm is None else eps_of(self.norm)

    def tensors(self) -> tuple[Any, ...]:
        """W1 (as keys), b1, `down.weight`, b2, the gate's two: as they are now, None if absent."""
        up, down = self.up._parameters, self.down._parameters
        gate: Any = _NO_GATE if self.gate is None else self.gate._parameters
        return (
            *(up["weight"], up["bias"], down["weight"], down["bias"]),
            *(gate["weight"], gate["bias"]),
        )

    def stamp(self) -> tuple[Any, ...]:
        """Where the weights lie, as what, and how often they were written: equal as long as torch
        knows of no change. Biases and the norm's weight are read afresh at every call, so their
        version does not matter.
        """
        up, down = self.up._parameters, self.down._parameters
        b1, b2 = up["bias"], down["bias"]
        marks = (
            _mark(up["weight"]),
            _mark(down["weight"]),
            0 if b1 is None else b1.data_ptr(),
            0 if b2 is None else b2.data_ptr(),
            _steps,
        )
        if self.norm is not None:
            weight: Any = self.norm._parameters["weight"]
            lies = (weight.data_ptr(), weight.dtype, weight.shape, weight.stride())
            marks = (*marks, lies, self.eps)  # type: ignore[assignment]
        if self.gate is None:
            return marks
        gate = self.gate._parameters
        bias = gate["bias"]
        return (*marks, _mark(gate["weight"]), 0 if bias is None else bias.data_ptr())

    def lay_out(self) -> None:
        """Store W2 as contiguous value rows. Shape, value and identity of the parameter stay."""
        weight = self.down.weight
        if not weight.t().is_contiguous():
            weight.data = weight.data.t().contiguous().t()
