"""Serves a layer that stands inside a larger forward: runs that forward on a stand-in."""

import inspect
import logging
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from reluctant.engine import Engine
from reluctant.surgery.agree import agree
from reluctant.surgery.deferred import Deferred, resolve
from reluctant.surgery.modes import casting
from reluctant.surgery.seat import Seat, kind_of
from reluctant.surgery.site import Site, Unfit, raw
from reluctant.surgery.standin import plain, stand_in
from reluctant.surgery.still import still
from reluctant.trainer import log

# Calls in which a forward may use what is between the products, and never let it be, before its
# layer is put back.
MOST_TOUCHED = 3
# First calls that are noted for compiled code.
NOTED = 16


def call(
    module: nn.Module,
    original: type[nn.Module],
    seat: Seat,
    take_out: Callable[[nn.Module], object],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """The module's original forward, with the engine in it."""
    forward, row = original.forward, seat.site.row
    assert row is not None
    ready = seat.ready(module)
    if torch.compiler.is_compiling():
        context = seat.context
        twin = seat.twin if ready and context and context.holds_traced(module) else None
        proved = twin is not None and seat.proved.get(key_of(seat.site, module, args, kwargs))
        return forward(twin if proved else module, *args, **kwargs)
    if not ready:
        if log.isEnabledFor(logging.INFO):
            seat.engine.trainer.say(f"left to its own code: {seat.why_not(module)}")
        return forward(plain(module, original), *args, **kwargs)
    serving = Serving(seat.site, seat)
    result = serving.run(forward, module, args, kwargs)
    if serving.wrong:
        take_out(module)
        seat.warn(module, stacklevel=4)
    elif seat.noted < NOTED:
        _note(seat, serving, module, args, kwargs)
        if seat.touched == MOST_TOUCHED:
            take_out(module)
            seat.warn(module, why=serving.touched, stacklevel=4)
    return result


def _note(
    seat: Seat, serving: "Serving", module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Remember what a call has shown: whether the layer can be served, and in compiled code."""
    seat.noted += 1
    key = key_of(seat.site, module, args, kwargs)
    shown = serving.done and not (serving.touched or serving.dropped)
    seat.proved[key] = seat.proved.get(key, True) and shown
    if serving.elsewhere:
        seat.twin = None  # what compiled code calls cannot tell one use from the other
    if serving.done:
        seat.touched = -NOTED
    elif serving.touched and not (module.training or seat.site.drops()):
        seat.touched += 1


def key_of(
    site: Site,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    twin: Callable[[Any], Any] | None = None,
) -> tuple[object, ...]:
    """What decides, besides the data, what a forward does: flags, and a call's arguments, of which
    tensors and other objects count by being there. twin: where parts are looked at, if not as they
    are.
    """
    names = tuple(kwargs)
    given = tuple(_kind(value) for value in (*args, *kwargs.values()))
    return len(args), names, given, site.switches(module, twin)


def _kind(value: object) -> object:
    plainly = value is None or isinstance(value, bool | int | float | str)
    return value if plainly else type(value).__name__


def prove(module: nn.Module, site: Site) -> list[tuple[tuple[object, ...], "Serving"]]:
    """What made-up hidden states show, by `key_of`: for evaluation and for training, if they do.

    Raises Unfit if the module's forward uses what is between the products for something else.
    """
    evaluation = _try_out(module, site, training=False)
    if evaluation is None:
        return []
    if evaluation[1].touched:
        raise Unfit(evaluation[1].touched)
    training = _try_out(module, site, training=True)
    return [evaluation] if training is None else [evaluation, training]


def _try_out(
    module: nn.Module, site: Site, *, training: bool
) -> tuple[tuple[object, ...], "Serving"] | None:
    """Send made-up hidden states through the module's forward.

    training: the flag of the module and of what holds its parts; all else is in evaluation mode.
    None if the forward cannot be called with hidden states alone, or did not come to the layer.
    """
    forward = getattr(type(module), "_unserved", type(module)).forward
    others = [*inspect.signature(forward).parameters.values()][2:]
    open_ended = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    needed = [p.name for p in others if p.default is p.empty and p.kind not in open_ended]
    generator = torch.Generator("cpu").manual_seed(0)
    x = torch.randn(1, 3, site.d_model, generator=generator, device="cpu").to(site.up.weight.dtype)
    trial, given = Serving(site, None), dict.fromkeys(needed)
    with still(module, keeps=True) as twin:
        for place in (module, *(part.holder for part in site.parts), *site.dropouts):
            if place is not None:
                twin(place).training = training
        key = key_of(site, twin(module), (x,), given, twin)
        with suppress(Exception):
            trial.run(forward, twin(module), (x,), given)
    return (key, trial) if trial.touched or trial.done else None


def seat_with(module: nn.Module, site: Site, engine: Engine, shown: list[Any]) -> Seat:
    """What the module is to keep."""
    assert site.row is not None
    seat = Seat(site, engine)
    if site.d_model != site.d_ff:
        seat.twin = stand_in(module, site.row, _Compiled(seat))
    show(seat, module, shown)
    return seat


def show(seat: Seat, module: nn.Module, shown: list[Any]) -> None:
    """Let it know what made-up hidden states have shown of the module as it is now."""
    seat.context = seat.site.context(module)
    for key, trial in shown:
        seat.proved[key] = trial.done and not (trial.touched or trial.dropped)
        if trial.elsewhere:
            seat.twin = None


class Serving:
    """The parts for one call. seat: None in a trial, in which the original parts do the work.

    done: the second map got what it has to get. touched: what else used that, in words; wrong: the
    engine differed from the original parts. elsewhere: the forward also uses the activation for
    something else, or asks for more of the parts than their results. dropped: it drops some of what
    comes to the second map.
    """

    compiled = False

    def __init__(self, site: Site, seat: Seat | None) -> None:
        self.site, self.seat = site, seat
        self.touched = ""
        self.done = self.wrong = self.elsewhere = self.dropped = False
        self._made: list[weakref.ref[Deferred]] = []

    def run(self, forward: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """The forward's result. What is kept of the layer's inside is computed by now."""
        assert self.site.row is not None
        result = forward(stand_in(module, self.site.row, self), *args, **kwargs)
        kept = [tensor for made in self._made if (tensor := made()) is not None]
        if kept:
            for tensor in kept:
                resolve(tensor, "it returns or keeps them")
            result = tree_map_only(Deferred, resolve, result)
        return result

    def asked(self) -> None:
        self.elsewhere = True

    def up(self, x: Tensor) -> Tensor:
        up = raw(self.site.up)
        takes = self.site.takes if self.seat is None else self.seat.takes
        if not takes(x) or x.is_nested:
            return up(x)  # type: ignore[no-any-return]
        kind = casting()
        # a copy, as the caller's may change before it is used, or be changed through this one
        given = x.clone() if kind is None else x.to(kind, copy=True)

        def compute() -> Tensor:
            with torch.autocast("cpu", kind, enabled=kind is not None):
                return up(given)  # type: ignore[no-any-return]

        return self._make(given, "up", compute)

    def activation(self, z: Tensor) -> Tensor:
        live: Any = self.site.live
        if not self._is(z, "up"):
            self.elsewhere = True
            return live(resolve(z, "the activation, twice"))  # type: ignore[no-any-return]
        held = z.__dict__
        if self.site.inplace:
            held["role"], compute = "active", held["compute"]
            held["compute"] = lambda: live(compute())
            return z
        return self._make(held["given"], "active", lambda: live(resolve(z, "the activation")))

    def down(self, h: Tensor) -> Tensor:
        if not self._is(h, "active"):
            return raw(self.site.down)(resolve(h, "the second Linear"))  # type: ignore[no-any-return]
        self.done = True
        x, seat, drop = h.__dict__["given"], self.seat, h.__dict__.get("drop", 0.0)
        self.dropped |= drop > 0
        if seat is None:  # what comes out is not looked at, only what is done with what is between
            return torch.clone(x)
        if drop > 0:  # with noise in it there is nothing to compare
            h.__dict__["drawn"] = True
            return seat.engine(x, drop)
        y, kind = seat.engine(x), kind_of(x)
        if kind not in seat.checked:
            with torch.no_grad():
                theirs = self.site.original(x)
            if not agree(self.site, x, y, theirs):
                self.wrong = True
                return self.site.original(x)
            seat.checked |= {kind}
        return y

    def _make(self, given: Tensor, role: str, compute: Callable[[], Tensor]) -> Deferred:
        made = Deferred.make(given, self.site.d_ff, compute, self._touch)
        made.__dict__.update(role=role, given=given, of=self, kind=casting())
        made.__dict__["again"] = lambda compute: self._make(given, "active", compute)
        self._made.append(weakref.ref(made))
        return made

    def _is(self, tensor: Tensor, role: str) -> bool:
        if type(tensor) is not Deferred or tensor.computed:
            return False
        held = tensor.__dict__
        return held["of"] is self and held["role"] == role and held["kind"] == casting()

    def _touch(self, why: str) -> None:
        name = self.touched or f"its forward does more between its Linear layers: {why}"
        self.touched = name


class _Compiled:
    """The parts in compiled code, which allows no state: sizes tell what a tensor is."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat

    compiled = True

    def asked(self) -> None:
        """Not to be called: `_note` keeps what asks from being compiled."""

    def up(self, x: Tensor) -> Tensor:
        return x if self.seat.takes(x) else raw(self.seat.site.up)(x)

    def activation(self, z: Tensor) -> Tensor:
        if z.shape[-1] == self.seat.site.d_model:
            return z
        return self.seat.site.live(z)  # type: ignore[no-any-return, operator]

    def down(self, h: Tensor) -> Tensor:
        if h.shape[-1] == self.seat.site.d_model:
            return self.seat.engine(h)
        return raw(self.seat.site.down)(h)  # type: ignore[no-any-return]
