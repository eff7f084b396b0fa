"""What every peer is to the benchmark."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.feedforward import FeedForward


class UnavailableError(Exception):
    """This peer does not exist for layers of that kind, on any machine."""


@dataclass(frozen=True)
class Peer:
    """One implementation of some layers, with weights of its own and for one shape of x.

    Attributes:
        name: as it stands in the table.
        calls: one a layer: the input in the peer's own form -> its output in that form. Timed.
        wrap: x (tokens, d_model) -> the input in the peer's own form; not timed.
        unwrap: an output -> y (tokens, d_model); not timed.
        exact: whether its arithmetic is that of the weights' dtype.
        spins: seconds for which its threads keep the cores busy after a call.
    """

    name: str
    calls: Sequence[Callable[[Any], Any]]
    wrap: Callable[[Tensor], Any] = lambda x: x
    unwrap: Callable[[Any], Tensor] = lambda y: y
    exact: bool = True
    spins: float = 0.0

    def answer(self, layer: int, x: Tensor) -> Tensor:
        """What the layer of that number makes of x."""
        return self.unwrap(self.calls[layer](self.wrap(x)))


def linears(layer: FeedForward) -> list[nn.Linear]:
    """Gate (if there is one), up, down."""
    return [part for part in (layer.gate, layer.up, layer.down) if part is not None]


def function_of(layer: FeedForward) -> Callable[[Tensor], Tensor]:
    """The layer's activation as torch itself has it, which its compiler and tracers know."""
    known: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "gelu": nn.GELU()}
    if layer.activation.name not in known:
        raise UnavailableError(f"no peer has {layer.activation.name}")
    return known[layer.activation.name]


def to_int8(weight: Tensor, group: int | None = None) -> tuple[Tensor, Tensor]:
    """weight (rows, n) as int8 and float32 scales, one a row or one a group of a row's columns.

    Symmetric, to the nearest: what every toolkit does when nothing is known of the inputs.
    """
    groups = weight.detach().float().view(len(weight), -1, group or weight.shape[1])
    scale = groups.abs().amax(2).clamp_min(1e-30) / 127
    return (groups / scale[..., None]).round().to(torch.int8).flatten(1), scale
