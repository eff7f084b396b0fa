"""What goes on inside a model's feed-forward layers, seen from their engines' places."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from reluctant.engine import Engine
from reluctant.surgery.optimize import optimize, restore
from reluctant.surgery.report import Entry
from reluctant.surgery.seat import Seat
from reluctant.surgery.swap import seat_of


class Seen(NamedTuple):
    """One call of a layer, its tokens as rows.

    x, y: (rows, d_model), what went in and came out. z: (rows, d_ff), what the activation got.
    h: (rows, d_ff), what the values are multiplied by.
    """

    x: Tensor
    z: Tensor
    h: Tensor
    y: Tensor


class Watch:
    """Takes an engine's place: computes the layer in plain torch, and shows each call to `see`.

    name: of the layer in its model. without: a neuron that is taken out, its h is 0; or None.
    shape: of the last call's x that was shown, without d_model. calls: that came here; missed:
    forwards of the layer's module in which none did, as its own code ran; why: in the first one.
    """

    def __init__(self, name: str, engine: Engine) -> None:
        self.name, self.engine = name, engine
        self.see: Callable[[Watch, Seen], object] | None = None
        self.without: int | None = None
        self.shape: tuple[int, ...] = ()
        self.calls = self.missed = 0
        self.why = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def __call__(self, x: Tensor, drop: float = 0.0) -> Tensor:
        self.calls += 1
        rows = x.reshape(-1, x.shape[-1])
        if self.see is None:
            return self.compute(rows).y.view(x.shape)
        self.shape = tuple(x.shape[:-1])
        seen = self.compute(rows.clone())  # the model may write into what it gave, and into y
        self.see(self, seen)
        return seen.y.clone().view(x.shape)

    def compute(self, rows: Tensor) -> Seen:
        """The layer of rows (n, d_model), in their dtype."""
        neurons = self.engine.neurons
        w1, b1, w2, b2, gate, gate_bias = neurons.tensors()
        z = F.linear(rows, w1, b1) if gate is None else F.linear(rows, gate, gate_bias)
        h = self.engine.activation(z)
        if gate is not None:
            h = h * F.linear(rows, w1, b1)
        if neurons.norm is not None:
            h = neurons.norm(h)
        if self.without is not None:
            h = h.clone()  # the identity gives z itself
            h[:, self.without] = 0
        return Seen(rows, z, h, F.linear(h, w2, b2))

    def active(self, seen: Seen) -> Tensor:
        """Whether a neuron fires for a token: bool (rows, d_ff).

        That is, z above the point below which the activation is exactly zero. Where there is no
        such point, as in GELU and SiLU: h is not zero, which is nearly always so.
        """
        if not self.exact_zeros:
            return seen.h != 0
        return ~(seen.z <= self.engine.activation.threshold)  # NaN counts as active

    @property
    def exact_zeros(self) -> bool:
        return self.engine.activation.zero_below is not None

    @property
    def keys(self) -> Tensor:
        """(d_ff, d_model), the rows that feed the activation: of a gated layer its gate's."""
        w1, _, _, _, gate, _ = self.engine.neurons.tensors()
        rows: Tensor = w1 if gate is None else gate
        return rows.detach()

    @property
    def biases(self) -> Tensor | None:
        """(d_ff,), the bias of those rows."""
        _, b1, _, _, gate, gate_bias = self.engine.neurons.tensors()
        bias: Tensor | None = b1 if gate is None else gate_bias
        return None if bias is None else bias.detach()


@dataclass(frozen=True)
class Watched:
    """A model's layers under watch, and those that are not, with the reason in each `Entry`."""

    watches: tuple[Watch, ...]
    left: tuple[Entry, ...]
    seats: tuple[tuple[nn.Module, Seat], ...]

    def lost(self) -> list[str]:
        """The layers that were put back since: in a real call the original gave something else."""
        pairs = zip(self.watches, self.seats, strict=True)
        return [watch.name for watch, (module, seat) in pairs if seat_of(module) is not seat]

    def show(self, see: Callable[[Watch, Seen], object] | None) -> None:
        """From now on show the calls of all layers to `see`; None: to nobody."""
        for watch in self.watches:
            watch.see = see

    def begin(self) -> None:
        """Count calls from now on."""
        for watch in self.watches:
            watch.calls, watch.missed, watch.why = 0, 0, ""


def _notices(watch: Watch, module: nn.Module, seat: Seat) -> Iterator[RemovableHandle]:
    """Hooks that count the forwards of a layer's module in which the watch was not called."""
    begun: list[int] = []

    def begins(_: nn.Module, args: Any) -> None:
        begun.append(watch.calls)

    def ends(_: nn.Module, args: Any, result: Any) -> None:
        if watch.calls > begun.pop():
            return
        watch.missed += 1
        if not watch.why and seat_of(module) is not seat:
            watch.why = "it was put back, as its own code computes something else"
        elif not watch.why and seat.site.row is not None and seat.ready(module):
            watch.why = "what came to its parts is no plain tensor of the weights' dtype on the CPU"
        elif not watch.why:
            watch.why = seat.why_not(module, *(args[:1] if seat.site.row is None else ()))

    yield module.register_forward_pre_hook(begins)
    yield module.register_forward_hook(ends)


@contextmanager
def watched(model: nn.Module) -> Iterator[Watched]:
    """Watch all feed-forward layers that `reluctant.optimize` finds; in the end they are put back.

    What comes out of the model is what plain torch gives. Raises ReluctantError if there is no
    such layer.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    >>> shapes = []
    >>> with watched(model) as layers, torch.no_grad():
    ...     layers.show(lambda watch, seen: shapes.append(seen.h.shape))
    ...     y = model(torch.zeros(2, 3, 8))
    >>> shapes
    [torch.Size([6, 32])]
    """
    restore(model)  # of a copy of a served model
    report = optimize(model, parts=("feed_forward",), way="dense")
    watches, seats = list[Watch](), list[tuple[nn.Module, Seat]]()
    handles: list[RemovableHandle] = []
    try:
        for entry in report.swapped:
            module = model.get_submodule(entry.name)
            seat = seat_of(module)
            assert seat is not None
            watch: Any = Watch(entry.name, seat.engine)
            seat.engine = watch
            watches.append(watch)
            seats.append((module, seat))
            handles += _notices(watch, module, seat)
        yield Watched(tuple(watches), (*report.refused, *report.untouched), tuple(seats))
    finally:
        for handle in handles:
            handle.remove()
        for watch, (_, seat) in zip(watches, seats, strict=True):
            seat.engine = watch.engine
        restore(model)
