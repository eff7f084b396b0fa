"""Runs a layer's own forward with an engine in the place of `fc2(activation(fc1(x)))`.

A stand-in is the layer's own state seen through another class: an object of a subclass whose
`__dict__` *is* the layer's, and whose attributes `fc1`, `activation_fn`, `fc2` are methods of a
`Call`. The forward then hands x from the first to the second to the third, as it came, and the
third has the engine compute the layer. Layer and parts stay what they are: whoever else asks for
`fc1` gets the Linear. Each call has a stand-in of its own, so that threads have nothing to share.
"""

import types
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from reluctant.surgery.families import Row

_ROLES = ("up", "activation", "down")


class Call(Protocol):
    """What takes the places of the parts for one call of the layer's forward."""

    compiled: bool

    def asked(self) -> None:
        """Learn that the forward asks for an attribute of a part, such as its weight."""

    def up(self, x: Tensor) -> Tensor: ...

    def activation(self, z: Tensor) -> Tensor: ...

    def down(self, h: Tensor) -> Tensor: ...


class Face:
    """One part as the forward sees it: called, it is the call's; all else is the part's own."""

    __slots__ = ("_call", "_do", "_part")

    def __init__(self, call: Call, do: Callable[[Tensor], Tensor], part: Any) -> None:
        self._call, self._do, self._part = call, do, part

    def __call__(self, given: Tensor) -> Tensor:
        return self._do(given)

    def __getattr__(self, name: str) -> Any:
        self._call.asked()
        return getattr(self._part, name)


class StandIn:
    """In front of the original class."""

    __slots__ = ("_call", "_holders")
    _call: Call
    _holders: dict[str, Any]

    def __init_subclass__(cls) -> None:
        """Keep the original's __init_subclass__ (registries, wrappers ...) from seeing ours."""


_classes: dict[tuple[type, Row], type] = {}


def stand_in(module: nn.Module, row: Row, call: Call) -> nn.Module:
    """A stand-in for the module. Its class has to be the original's."""
    holders = {}
    for path in row:
        above, _, _ = path.rpartition(".")
        if above and above not in holders:
            inner = Row(*(p.partition(".")[2] if p.startswith(f"{above}.") else "" for p in row))
            holders[above] = _make(module._modules[above], inner, call, {})  # type: ignore[arg-type]
    return _make(module, row, call, holders)


def plain(module: nn.Module, original: type[nn.Module]) -> nn.Module:
    """The module's state as an object of its original class, for code that looks at `type(self)`
    (as Hugging Face's checkpointing does).
    """
    twin = object.__new__(original)
    object.__setattr__(twin, "__dict__", module.__dict__)
    return twin


def _make(module: nn.Module, row: Row, call: Call, holders: dict[str, Any]) -> nn.Module:
    original = getattr(type(module), "_unserved", type(module))
    cls = _classes.get((original, row)) or _classes.setdefault(
        (original, row), _class(original, row)
    )
    twin: nn.Module = object.__new__(cls)
    object.__setattr__(twin, "__dict__", module.__dict__)
    object.__setattr__(twin, "_call", call)
    object.__setattr__(twin, "_holders", holders)
    return twin


def _class(original: type[nn.Module], row: Row) -> type:
    names = ("__module__", "__qualname__", "__doc__")
    namespace: dict[str, Any] = {name: getattr(original, name) for name in names}
    for path, role in zip(row, _ROLES, strict=True):
        name, _, deeper = path.partition(".")
        if name:
            namespace[name] = _holder(name) if deeper else _part(name, role)
    # Properties, as these win over what the instance's __dict__ holds.
    return types.new_class(
        original.__name__, (StandIn, original), exec_body=lambda ns: ns.update(namespace)
    )


def _part(name: str, role: str) -> property:
    def face(self: Any) -> Any:
        do = getattr(self._call, role)
        if self._call.compiled:  # compilers do not follow __getattr__
            return do
        held = self.__dict__
        return Face(self._call, do, held[name] if name in held else held["_modules"][name])

    return property(face)


def _holder(name: str) -> property:
    return property(lambda self: self._holders[name])
