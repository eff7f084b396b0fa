"""One feed-forward layer in a live module: its parts, and whether they are still as they were."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn, strided
from torch.nn.modules.dropout import _DropoutNd

from reluctant.activations import Activation
from reluctant.surgery.families import Row
from reluctant.surgery.state import State
from reluctant.surgery.transposed import Transposed


class Unfit(Exception):  # noqa: N818 - a finding, not an error
    """Why a module is left as it is.

    refused: it is a feed-forward layer, but one that cannot be served; otherwise a look-alike.
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.refused = refused
        self.activation: str | None = None
        self.d_model: int | None = None
        self.d_ff: int | None = None


class Part(NamedTuple):
    """A submodule that takes part. holder: the submodule that it lies in, None: the module."""

    holder: nn.Module | None
    name: str
    module: nn.Module
    kind: type


class Attribute(NamedTuple):
    """A plain attribute that has to stay, an activation function; holder as in `Part`."""

    holder: nn.Module | None
    name: str
    value: object


@dataclass(frozen=True, eq=False)
class Site:
    """What a module's feed-forward layer consists of, and what each call relies on.

    method: the method of the module that computes it.
    up, down, gate: its linear maps, as the engine sees them. norm: what stands before down, if any.
    live: the activation as the module holds it (inline layers).
    row: where the parts are if the method does more than the layer, None if it is the layer.
    children: how many submodules the module has altogether; None if others do not matter.
    trains: whether training mode, dropouts aside, computes the same.
    leading: how many dimensions before the last the module is known to take.
    dropouts: those that may act in between.
    inplace: whether an inline layer's activation writes into what it gets.
    scalars: (holder, name) of the numbers and flags that an inline layer's forward may go by.
    known: whether torch or we wrote the code that calls the parts.
    between, after: those of them that are known to act on what comes to the second map, and on the
    result.
    weighed: the modules that hold the weights.

    Holds no reference to the module itself, as that would be a cycle and keep its weights alive.
    """

    method: str
    up: nn.Linear
    down: nn.Linear
    gate: nn.Linear | None
    activation: Activation
    parts: tuple[Part, ...]
    attribute: Attribute | None = None
    live: object = None
    row: Row | None = None
    children: int | None = None
    trains: bool = True
    leading: int = 2
    dropouts: tuple[_DropoutNd, ...] = ()
    scalars: tuple[tuple[nn.Module | None, str], ...] = ()
    norm: nn.Module | None = None
    inplace: bool = False
    known: bool = False
    between: nn.Dropout | None = None
    after: nn.Dropout | None = None
    weighed: tuple[nn.Module, ...] = field(init=False)

    def __post_init__(self) -> None:
        parts = (self.up, self.down, self.gate, self.norm)
        weighed = tuple(raw(part) for part in parts if part is not None)
        object.__setattr__(self, "weighed", weighed)

    @property
    def d_model(self) -> int:
        return self.up.in_features

    @property
    def d_ff(self) -> int:
        return self.up.out_features

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the first map's weight, as it is now."""
        weight = self.weighed[0]._parameters.get("weight")
        return None if weight is None else weight.dtype

    def state(self, module: nn.Module) -> State:
        """What the proof goes by that this is the layer: of an inline one, its parts alone."""
        dtype = self.dtype
        assert dtype is not None
        if self.row is None:
            return State(module, (part.module for part in self.parts), dtype)
        parts = [raw(self.up), raw(self.down)]
        if isinstance(self.live, nn.Module):
            parts.append(self.live)
        named = self.attribute is not None and self.attribute.holder is None
        only = (self.attribute.name,) if self.attribute is not None and named else ()
        return State(module, parts, dtype, only)

    def context(self, module: nn.Module) -> State:
        """What an inline layer's whole forward may go by."""
        holders = (part.holder for part in self.parts if part.holder is not None)
        dtype = self.dtype
        assert dtype is not None
        return State(module, (*holders, *self.dropouts), dtype)

    def same(self, other: "Site") -> bool:
        """Whether it is the same layer: these very parts, and the same activation."""
        names = ("method", "parts", "attribute", "row", "activation", "norm", "weighed", "live")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def whole(self, module: nn.Module) -> bool:
        """Whether the module still holds these very parts."""
        own = module._modules
        if self.children is not None and len(own) != self.children:
            return False
        if self.attribute is not None:
            holder, name, function = self.attribute
            if _in(holder, module).__dict__.get(name) is not function:
                return False
        for holder, name, part, kind in self.parts:
            modules = own if holder is None else holder._modules
            # a parametrization, weight norm of torch.nn.utils.parametrize too, changes the class
            if modules.get(name) is not part or type(part) is not kind:
                return False
        return True

    def observed(self) -> bool:
        """Whether someone watches or changes what goes through a part."""
        for _, _, part, _ in self.parts:
            held = part.__dict__  # read as such: on every call, and cheaper than attributes
            if (
                held["_forward_hooks"]
                or held["_forward_pre_hooks"]
                or held["_backward_hooks"]
                or held["_backward_pre_hooks"]
                or "forward" in held  # set on the instance, as accelerate's hooks are
            ):
                return True
        return False

    def drops(self) -> bool:
        """Whether a dropout would act now. Each has its own flag: Monte Carlo dropout uses that."""
        for dropout in self.dropouts:  # noqa: SIM110 - on every call, and any() is slower
            if dropout.training and dropout.p > 0:
                return True
        return False

    def drops_only_there(self) -> bool:
        """Whether all dropouts that would act now are the ones whose places are known."""
        places = (self.between, self.after)
        return all(d in places for d in self.dropouts if d.training and d.p > 0)

    def original(self, x: Tensor) -> Tensor:
        """An inline layer's own result, without what its forward does besides."""
        live: Any = self.live
        return raw(self.down)(live(raw(self.up)(x)))  # type: ignore[no-any-return]

    def switches(
        self, module: nn.Module, twin: Callable[[Any], Any] | None = None
    ) -> tuple[object, ...]:
        """What may decide, besides the data, what stands between an inline layer's products.

        twin: gives the modules to look at instead of those that the layer has.
        """
        holders = [holder for holder, _ in self.scalars]
        dropouts: Any = self.dropouts
        if twin is not None:
            holders, dropouts = [*map(twin, holders)], [*map(twin, dropouts)]
        places = zip(holders, (name for _, name in self.scalars), strict=True)
        return (
            *(_in(holder, module).__dict__.get(name) for holder, name in places),
            *(dropout.training and dropout.p > 0 for dropout in dropouts),
            self.up.weight.dtype,
        )

    def takes(self, x: object) -> bool:
        """Whether x and the weights as they are now go together, or autocast makes them."""
        # Subclasses and tracers want to see the plain operations.
        if type(x) is not Tensor or not (x.is_cpu and x.is_floating_point()):
            return False
        casts = torch.is_autocast_enabled("cpu")
        dtype = self.dtype if casts else x.dtype
        if casts and torch.float64 in (dtype, x.dtype):  # which it does not cast
            return False
        for part in self.weighed:
            weight = part._parameters.get("weight")
            # not pruned, quantised in place, in a functional_call ...
            if type(weight) is not nn.Parameter or weight.dtype is not dtype:
                return False
        if x.is_nested:
            return True
        # not sparse, nor in oneDNN's own layout
        return x.layout is strided and x.dim() > 0 and x.size(-1) == self.d_model


def _in(holder: nn.Module | None, module: nn.Module) -> nn.Module:
    return module if holder is None else holder  # an empty Sequential is false


def sizes(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a Linear or Conv1D, also a quantised or adapted one; None for all else."""
    for names in (("in_features", "out_features"), ("nx", "nf")):
        found = tuple(getattr(module, name, None) for name in names)
        if all(isinstance(size, int) for size in found):
            return found  # type: ignore[return-value]
    return None


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is the Conv1D of transformers: a Linear whose weight is stored transposed."""
    library = sys.modules.get("transformers.pytorch_utils")
    return library is not None and type(module) is library.Conv1D


def as_linear(module: nn.Module) -> nn.Linear:
    """A Linear as it is, a Conv1D as a Linear."""
    return module if isinstance(module, nn.Linear) else Transposed(module)


def raw(part: nn.Module) -> nn.Module:
    """The module that the model holds: undoes `as_linear`."""
    return part.conv if isinstance(part, Transposed) else part
