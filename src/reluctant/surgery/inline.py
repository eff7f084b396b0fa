"""Serves a layer that stands inside a larger forward: runs that forward on a stand-in."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.engine import Engine
from reluctant.errors import ReluctantError
from reluctant.surgery.agree import agree
from reluctant.surgery.seat import Seat
from reluctant.surgery.site import Site, Unfit, raw
from reluctant.surgery.standin import plain, stand_in
from reluctant.surgery.watch import Watch, try_out


def call(
    module: nn.Module,
    original: type[nn.Module],
    seat: Seat,
    take_out: Callable[[nn.Module], object],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """The module's original forward, with the engine in it if it is proved that it may be.

    Proofs that no made-up input could give are made here, on the first call without gradients, in
    which the original parts do the work.
    """
    forward, row = original.forward, seat.site.row
    assert row is not None
    ready = seat.ready(module)
    proved = seat.proved.get(seat.site.switches(module)) if ready else False
    if torch.compiler.is_compiling():
        return forward(seat.twin if proved and seat.twin else module, *args, **kwargs)
    if proved is None and not torch.is_grad_enabled():
        return _watched(module, forward, seat, take_out, args, kwargs)
    if not proved:
        return forward(plain(module, original), *args, **kwargs)
    return forward(stand_in(module, row, _Serving(module, seat, take_out)), *args, **kwargs)


def prove(module: nn.Module, site: Site) -> list[Watch]:
    """What made-up hidden states prove: nothing, or something for evaluation and for training.

    Raises Unfit if the module's forward is shown to do something else.
    """
    evaluation = try_out(module, site, training=False)
    if evaluation is None:
        return []
    if evaluation.wrong:
        raise Unfit(evaluation.wrong)
    training = try_out(module, site, training=True)
    return [evaluation] if training is None else [evaluation, training]


def seat_with(module: nn.Module, site: Site, engine: Engine, watched: list[Watch]) -> Seat:
    """What the module is to keep."""
    assert site.row is not None
    seat = Seat(site, engine)
    if site.d_model != site.d_ff:
        seat.twin = stand_in(module, site.row, _Compiled(seat))
    for watch in watched:
        _note(seat, watch)
    return seat


def _note(seat: Seat, watch: Watch) -> None:
    if watch.wrong or watch.finished:
        seat.proved[watch.switches] = not watch.wrong
    if watch.elsewhere:
        seat.twin = None  # what compiled code calls cannot tell one use from the other


def _watched(
    module: nn.Module,
    forward: Callable[..., Any],
    seat: Seat,
    take_out: Callable[[nn.Module], object],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    watch = Watch(seat.site)
    watch.switches = seat.site.switches(module)
    result = watch.run(forward, module, args, kwargs)
    if watch.wrong and not module.training and not seat.site.drops():
        take_out(module)
        seat.warn(module, why=watch.wrong, stacklevel=5)
    else:
        _note(seat, watch)
    return result


class _Serving:
    """The parts for one call. x: what came to the first map, until the second one has it."""

    __slots__ = ("module", "seat", "take_out", "x")
    compiled = False

    def asked(self) -> None:
        """Nothing to do: it gets the part's."""

    def __init__(
        self, module: nn.Module, seat: Seat, take_out: Callable[[nn.Module], object]
    ) -> None:
        self.module, self.seat, self.take_out = module, seat, take_out
        self.x: Tensor | None = None

    def up(self, x: Tensor) -> Tensor:
        if self.seat.takes(x):
            self.x = x
            return x
        self.x = None
        return raw(self.seat.site.up)(x)  # type: ignore[no-any-return]

    def activation(self, z: Tensor) -> Tensor:
        return z if z is self.x else self.seat.site.live(z)  # type: ignore[operator]

    def down(self, h: Tensor) -> Tensor:
        x, self.x = self.x, None
        if x is None:
            return raw(self.seat.site.down)(h)  # type: ignore[no-any-return]
        if h is not x:
            raise ReluctantError(
                f"between the two Linear layers of a {type(self.module).__name__} stands more than "
                "an activation now, which it did not when it was optimized: call "
                "reluctant.restore, and optimize again as the model is to run"
            )
        seat = self.seat
        y = seat.engine(x)
        if seat.checked is not x.dtype:
            with torch.no_grad():
                theirs = seat.site.original(x)
            if not agree(seat.site, x, y, theirs):
                self.take_out(self.module)
                seat.warn(self.module, stacklevel=4)
                return seat.site.original(x)
            seat.checked = x.dtype
        return y


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
