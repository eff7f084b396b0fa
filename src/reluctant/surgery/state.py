"""What a layer's forward may go by besides weights and input: a proof holds as long as it stays.

Plain attributes of the module, of its parts and of their classes, lists and dicts among them, and
the attributes of objects that they hold (a config, say). Not seen are globals, what closures hold,
and what lies deeper.
"""

import functools
import types
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

KEY = "_reluctant"
# nn.Module's own; `training` is asked for by those who need it.
_OWN = {*nn.Module().__dict__, KEY}
_DEPTH = 2  # of objects in objects
# Torch's own that go by no plain attribute, but for a dropout's p, which is read on each call.
_PLAIN = (nn.Linear, nn.Identity, nn.Dropout)


class _Place(NamedTuple):
    """The plain attributes of one object.

    holder: the module or class in question, None: the layer's module. path: attributes that lead
    from it to the object. size: how many entries its __dict__ has, -1 if others do not matter.
    names, get, values: which were looked at, how to get them all, what they were.
    """

    holder: Any
    path: tuple[str, ...]
    size: int
    names: tuple[str, ...]
    get: Any
    values: tuple[object, ...]


class State:
    """How the plain attributes of a module and of its parts were when something was proved.

    module, parts: as they are now. only: which of the module's own attributes count, None: all.
    dtype: of the weights then. Holds no reference to the module itself, as that would be a cycle
    and keep its weights alive.
    """

    def __init__(
        self,
        module: nn.Module,
        parts: Iterable[nn.Module],
        dtype: torch.dtype,
        only: tuple[str, ...] | None = None,
    ) -> None:
        self.dtype = dtype
        places = list(_places(None, (), module, only))
        if only is None:
            places += _class_places(module)
        for part in dict.fromkeys(part for part in parts if type(part) not in _PLAIN):
            places += _places(part, (), part)
            places += _class_places(part)
        self.places = tuple(places)

    def holds(self, module: nn.Module) -> bool:
        """Whether it is all as it was. On every call: what can be is done by C code."""
        try:
            for holder, path, size, _, get, values in self.places:
                held = (module if holder is None else holder).__dict__
                for name in path:
                    held = _inside(held[name])
                if size not in (-1, len(held)) or get(held) != values:
                    return False
        except Exception:  # an attribute is gone, or does not compare
            return False
        return True

    def holds_traced(self, module: nn.Module) -> bool:
        """The same for compilers, which make guards of what is looked at."""
        for holder, path, _, names, _, values in self.places:
            held = (module if holder is None else holder).__dict__
            for name in path:
                held = _inside(held[name])
            for i, name in enumerate(names):
                if name not in _OWN and held.get(name) != values[i]:
                    return False
        return True


def _class_places(owner: nn.Module) -> Iterator[_Place]:
    """The plain attributes of the classes that someone wrote: not torch's."""
    for cls in getattr(type(owner), "_unserved", type(owner)).__mro__:
        if cls is not object and not cls.__module__.startswith("torch."):
            names = tuple(n for n, value in vars(cls).items() if _is_plain(n, value))
            yield from _places(cls, (), cls, names) if names else ()


def _places(
    holder: Any, path: tuple[str, ...], owner: Any, only: tuple[str, ...] | None = None
) -> Iterator[_Place]:
    held = _inside(owner) if path else owner.__dict__
    names = tuple(name for name in (held if only is None else only) if _counts(name, held))
    get = itemgetter(*names, *names[: 2 - len(names)]) if names else _nothing  # a tuple at any rate
    values = tuple(frozen(value) for value in get(held))
    if not _is_frozen(owner):
        yield _Place(holder, path, len(held) if only is None else -1, names, get, values)
    for name in names:
        if len(path) < _DEPTH and name not in _OWN and _inside(held[name]) is not None:
            yield from _places(holder, (*path, name), held[name])


def _is_frozen(owner: Any) -> bool:
    """Whether it is an object whose attributes stay: what they hold may still change."""
    return bool(getattr(getattr(owner, "__dataclass_params__", None), "frozen", False))


def _counts(name: str, held: Any) -> bool:
    """Of nn.Module's own, only parameters, buffers and submodules that are not there yet."""
    if name in ("_parameters", "_buffers", "_modules"):
        return not held[name]
    return name not in _OWN


def _nothing(_: object) -> tuple[object, ...]:
    return ()


def frozen(value: object) -> object:
    """A container as a copy, which its own changes do not reach; all else as it is."""
    if type(value) is dict:
        return {key: frozen(each) for key, each in value.items()}
    if type(value) is set:
        return set(value)
    if type(value) is list:
        return [frozen(each) for each in value]
    return tuple(frozen(each) for each in value) if type(value) is tuple else value


def _inside(value: Any) -> Any:
    """The attributes that someone's object has; None for modules, functions and all else."""
    if isinstance(value, functools.partial):
        return value.keywords
    if isinstance(value, types.MethodType):
        value = value.__self__
    if isinstance(value, nn.Module | Tensor | type | types.FunctionType | types.ModuleType):
        return None
    held = getattr(value, "__dict__", None)
    return held if type(held) is dict else None


def _is_plain(name: str, value: object) -> bool:
    kinds = (bool, int, float, str, type(None), list, tuple, dict, set)
    return not name.startswith("__") and type(value) in kinds
