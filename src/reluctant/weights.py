"""The weights of one feed-forward layer as rows: a neuron is a key and a value.

Everything is read off the live `nn.Linear`s at each call, so that a replaced or re-typed parameter
is never missed; and no weight is ever moved in memory, since others may see it there: processes
that share it, views of one flat vector, a `state_dict`, an optimizer. Where a neuron's weights lie
on end, kernels read them in place; where they lie in a column, as those of an `nn.Linear`'s W2 do,
kernels read a copy of the engine's own.
"""

import weakref
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from reluctant.errors import ReluctantError

HELD_AS = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}
_PIECE = 2**18  # numbers that are compared at once, in the second-level cache


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
        return self.keys.shape[1]

    @property
    def d_ff(self) -> int:
        """Number of neurons."""
        return self.keys.shape[0]

    @property
    def keys(self) -> Tensor:
        """(d_ff, d_model): row i is column i of W1."""
        return self.tensors()[0]  # type: ignore[no-any-return]

    @property
    def values(self) -> Tensor:
        """(d_ff, d_model): row i is row i of W2. A view of `down.weight`, without gradients."""
        return self.tensors()[2].data.t()  # type: ignore[no-any-return]

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
        gate = self.gate
        try:  # read as such: on every call, and cheaper than attributes
            up, down = self.up._parameters, self.down._parameters
            four = up["weight"], up["bias"], down["weight"], down["bias"]
            if gate is None:
                return (*four, None, None)
            return (*four, gate._parameters["weight"], gate._parameters["bias"])
        except KeyError:  # pruned, or parametrized: an attribute of another kind
            two = (None, None) if gate is None else (gate.weight, gate.bias)
            return (self.up.weight, self.up.bias, self.down.weight, self.down.bias, *two)


class Map:
    """The weights of one `nn.Linear`, read off it at each call. Does not keep it alive."""

    def __init__(self, linear: nn.Linear) -> None:
        self._linear = weakref.ref(linear)

    def is_of(self, linear: nn.Module) -> bool:
        """Whether it is this one's."""
        return self._linear() is linear

    def tensors(self) -> tuple[Any, ...]:
        """Its weight (n, d) and its bias (n,), None if absent: as they are now."""
        linear = self._linear()
        if linear is None:
            raise ReluctantError("expected a linear map that is still there; it is gone")
        try:  # read as such: on every call, and cheaper than attributes
            return linear._parameters["weight"], linear._parameters["bias"]
        except KeyError:  # pruned, or parametrized
            return linear.weight, linear.bias


def stored_as(weight: Tensor) -> tuple[Tensor, bool] | None:
    """A weight (d_ff, d_model) as contiguous rows of the live memory, and whether these are its
    columns; None if its memory has another order.
    """
    weight = weight.data  # detach() fails on tensors of inference mode
    if weight.is_contiguous():
        return weight, False
    return (weight.t(), True) if weight.t().is_contiguous() else None


@dataclass(frozen=True)
class Matrix:
    """One of a layer's matrices as the kernels read it.

    stored: the live memory, contiguous: (d_ff, d_model), or (d_model, d_ff). rows: (d_ff, d_model),
    contiguous: `stored`, or, if `copied`, its columns; or a copy of either in 16 bits.
    """

    stored: Tensor
    rows: Tensor
    copied: bool

    @staticmethod
    def of(weight: Tensor, dtype: torch.dtype) -> "Matrix":
        """Of a weight (d_ff, d_model) for which there is a `stored_as`, read in this dtype."""
        stored, columns = stored_as(weight) or (weight.data, False)
        if not columns and dtype is stored.dtype:
            return Matrix(stored, stored, columns)
        return Matrix(stored, copy_of(stored, dtype, columns=columns), columns)


def copy_of(matrix: Tensor, dtype: torch.dtype, *, columns: bool = False) -> Tensor:
    """A copy of a contiguous matrix in this dtype, or of its columns as rows.

    In NumPy's memory: of 4 MB on it asks the system for large pages, where torch does not. Writing
    it the first time takes half as long, and reading it from memory up to a tenth less.
    """
    kind = as_array(torch.empty(0, dtype=dtype, device="cpu")).dtype
    made = np.empty(matrix.shape[::-1] if columns else matrix.shape, kind)
    return torch.from_numpy(made).view(dtype).copy_(matrix.t() if columns else matrix)


def narrowest(weights: Iterable[Tensor], among: Collection[torch.dtype]) -> torch.dtype:
    """The first 16-bit dtype of these, of which every one of the weights' numbers is one; else
    float32. weights: float32, with contiguous memory.

    >>> narrowest([torch.tensor([1.0, 1 + 2.0**-10])], (torch.bfloat16, torch.float16))
    torch.float16
    """
    flat = [stored_as(weight) for weight in weights]
    for dtype in (torch.bfloat16, torch.float16):
        if dtype in among and all(each and _are(each[0].view(-1), dtype) for each in flat):
            return dtype
    return torch.float32


def _are(numbers: Tensor, dtype: torch.dtype) -> bool:
    """Whether all are numbers of this dtype, bit by bit, as subnormals may be flushed here. NaN is
    none: it has more than one form.
    """
    pieces = (numbers[at : at + _PIECE] for at in range(0, len(numbers), _PIECE))
    bits = torch.int32
    return all(
        torch.equal(piece.to(dtype).float().view(bits), piece.view(bits))
        and not piece.isnan().any()
        for piece in pieces
    )


def as_array(tensor: Tensor) -> npt.NDArray[Any]:
    """A contiguous CPU tensor for the kernels, in place: float32, bfloat16 as uint16, or float16 as
    int16, so that its type tells which of the two it is."""
    return np.asarray(_Memory(tensor))


class _Memory:
    """A tensor as NumPy's array interface describes it.

    `tensor.numpy()` would forbid torch, for good, to change the size of the memory, as it does
    between the steps of sharded training (`fully_shard`).
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor  # which keeps the memory as long as the array lives
        kind = HELD_AS.get(tensor.dtype, tensor.dtype)
        place = tensor.data_ptr() if tensor.numel() else _NOWHERE.data_ptr()
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(tensor.shape),
            "typestr": np.dtype(str(kind).removeprefix("torch.")).str,
            "strides": tuple(stride * tensor.itemsize for stride in tensor.stride()),
            "data": (place, False),
        }


_NOWHERE = torch.empty(1, device="cpu")
