"""Puts an engine into a live module, and takes it out again, by a change of the module's class.

The new class is a subclass of the old one that overrides the one method which computes the
feed-forward layer. Nothing else changes: not parameters, submodules, names or hooks; isinstance
holds. The engine lies in the module's `__dict__`, so that a copy of the module copies it, too.
"""

import copyreg
import functools
import inspect
import logging
import types
import typing
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reluctant.engine import Engine
from reluctant.surgery.agree import agree
from reluctant.surgery.inline import call as call_inline
from reluctant.surgery.inline import seat_with
from reluctant.surgery.linears import HeadSeat, MapSeat, head_of
from reluctant.surgery.seat import KEY, Seat, kind_of
from reluctant.surgery.site import Site, Unfit, raw
from reluctant.trainer import log
from reluctant.transformer.attention import MultiHeadAttention

FUSED = "activation_relu_or_gelu"


class Served:
    """In front of the original class: what makes its instances copy and pickle as such."""

    _unserved: type[nn.Module]

    def __init_subclass__(cls) -> None:
        """Keep the original's __init_subclass__ (registries ...) from seeing our classes."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        _, _, *state = tuple(super().__reduce_ex__(max(int(protocol), 2)))
        return _blank, (self._unserved,), *state


def _blank(original: type[nn.Module]) -> nn.Module:
    """Make an empty served module, for copy and pickle to fill."""
    cls = _served_class(original)
    return cls.__new__(cls)


_classes: dict[type[nn.Module], type[nn.Module]] = {}


def _served_class(original: type[nn.Module]) -> type[nn.Module]:
    cls = _classes.get(original)
    return cls if cls is not None else _classes.setdefault(original, _subclass(original))


def _subclass(original: type[nn.Module]) -> type[nn.Module]:
    method = "forward"
    if issubclass(original, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        method = "_ff_block"
    elif issubclass(original, MultiHeadAttention):
        method = "mix"
    namespace = {
        "_unserved": original,
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        method: _override(original, method),
    }
    # The original's name: FSDP's policies and device maps look layers up by the names of classes.
    return types.new_class(
        original.__name__,
        (Served, original),
        {"metaclass": _metaclass(type(original))},
        exec_body=lambda ns: ns.update(namespace),
    )


_metaclasses: dict[type, type] = {}


def _metaclass(original: type) -> type:
    """A metaclass of ours, as that is how pickle learns what to write for a class."""
    meta = _metaclasses.setdefault(original, type(original.__name__, (original,), {}))
    copyreg.pickle(meta, _pickled)
    return meta


def _pickled(cls: type[Served]) -> tuple[Any, ...]:
    """A served class, itself and not an object of it, pickles as the original."""
    return typing.cast, (object, cls._unserved)  # a call that returns its second argument


def _override(original: type[nn.Module], method: str) -> Callable[..., Any]:
    plain = getattr(original, method)
    parameters = list(inspect.signature(plain).parameters)
    keyword = parameters[1] if len(parameters) > 1 else ""

    def serve(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: PLR0911 - by cases
        current = getattr(original, method)
        seat = self.__dict__.get(KEY)
        if seat is None or current is not plain:
            return current(self, *args, **kwargs)
        if isinstance(seat, MapSeat):
            return seat.call(self, current, args, kwargs)
        if seat.site.row is not None:
            return call_inline(self, original, seat, take_out, args, kwargs)
        if len(args) + len(kwargs) != 1:
            return current(self, *args, **kwargs)
        x: Any = args[0] if args else kwargs.get(keyword)
        if not seat.serves(self, x):
            if not torch.compiler.is_compiling() and log.isEnabledFor(logging.INFO):
                seat.engine.trainer.say(f"left to its own code: {seat.why_not(self, x)}")
            return current(self, *args, **kwargs)
        if torch.compiler.is_compiling():
            return seat.engine(x)
        if seat.site.drops():  # with noise in it there is nothing to compare
            return _dropping(seat, x)
        if kind_of(x) in seat.checked:
            return seat.engine(x)
        return _first(self, seat, x, functools.partial(current, self))

    # Compilers cache, and limit how often they compile, by code object: one for each class.
    serve.__code__ = serve.__code__.replace(co_name=f"{method}_of_{original.__name__}")
    return functools.wraps(plain)(serve)


def _first(module: nn.Module, seat: Seat, x: Tensor, original: Callable[[Tensor], Any]) -> Any:
    """Serve a layer's first real call, next to the original; put the original back if they differ.

    The original runs without gradients, so that a checkpoint that recomputes this call saves the
    same tensors then as now.
    """
    y, kind = seat.engine(x), kind_of(x)
    with torch.no_grad():
        theirs = original(x)
    if isinstance(theirs, Tensor) and agree(seat.site, x, y, theirs):
        seat.checked |= {kind}
        return y
    if kind[1] is not None:  # casts of its own: it may still be the layer without autocast
        seat.refused |= {kind}
        return original(x)
    take_out(module)
    seat.warn(module, stacklevel=4)
    return original(x)


def _dropping(seat: Seat, x: Tensor) -> Tensor:
    """The layer with its dropouts, in training: the first one on the active neurons alone."""
    drop, after = (
        part.p if part is not None and part.training else 0.0
        for part in (seat.site.between, seat.site.after)
    )
    y = seat.engine(x, drop)
    return F.dropout(y, after) if after > 0 else y


def seat_of(module: nn.Module) -> Seat | None:
    """What a served module keeps; None for all others."""
    seat = module.__dict__.get(KEY)
    return seat if isinstance(module, Served) and isinstance(seat, Seat) else None


def parts_of_layers(model: nn.Module) -> set[int]:
    """The ids of the modules that served feed-forward layers consist of."""
    return {
        id(raw(part))
        for module in model.modules()
        if (seat := seat_of(module)) is not None
        for part in (seat.site.up, seat.site.down, seat.site.gate, seat.site.norm)
        if part is not None
    }


def put_in(module: nn.Module, site: Site, engine: Engine, shown: list[Any]) -> Seat:
    """Let the engine serve the module's feed-forward layer. In place, all or nothing.

    Raises Unfit if the module's class allows no subclass or no change to one.
    """
    try:
        object.__setattr__(module, "__class__", _served_class(type(module)))
        seat = Seat(site, engine) if site.row is None else seat_with(module, site, engine, shown)
    except (TypeError, ValueError) as error:
        if isinstance(module, Served):
            object.__setattr__(module, "__class__", module._unserved)
        raise Unfit(f"its class cannot be extended: {error}", refused=True) from error
    if site.method == "_ff_block" and FUSED in module.__dict__:
        seat.fused = module.__dict__[FUSED]
        module.__dict__[FUSED] = 0
    module.__dict__[KEY] = seat
    try:
        seat.state = site.state(module)
    except BaseException:
        take_out(module)
        raise
    return seat


def put_map(module: nn.Module, seat: MapSeat) -> None:
    """Let the product for few rows serve a linear map."""
    object.__setattr__(module, "__class__", _served_class(type(module)))
    module.__dict__[KEY] = seat


def map_seat_of(module: nn.Module) -> MapSeat | None:
    """What a served linear map keeps; None for all others."""
    seat = module.__dict__.get(KEY)
    return seat if isinstance(module, Served) and isinstance(seat, MapSeat) else None


def head_seat_of(model: nn.Module) -> HeadSeat | None:
    """What a model's output projection keeps, if it is served."""
    head = head_of(model)
    seat = None if head is None else map_seat_of(head)
    return seat if isinstance(seat, HeadSeat) else None


def take_out(module: nn.Module) -> bool:
    """Undo `put_in`; says whether there was something to undo. Works on copies, too."""
    if not isinstance(module, Served):
        return False
    seat = module.__dict__.pop(KEY, None)
    if isinstance(seat, Seat) and seat.fused is not None:
        module.__dict__[FUSED] = seat.fused
    if type(module) is _served_class(module._unserved):
        object.__setattr__(module, "__class__", module._unserved)
    # else someone subclassed ours: without a seat it does what the original does
    if isinstance(seat, Seat):
        seat.engine.refresh()  # a report may hold it: the memory is given back
    elif seat is not None:
        seat.forget()
    return seat is not None
