"""What goes through a model's feed-forward layers on real text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reluctant.feedforward import FeedForward
from reluctant.lab.study.variants import layers_of
from reluctant.transformer.model import Transformer
from reluctant.translation.batches import Batch
from reluctant.translation.vocabulary import PAD


@dataclass(frozen=True)
class Seen:
    """One layer's tokens, one a row: its input x and output y (tokens, d_model), and h
    (tokens, d_ff) between its two maps.
    """

    x: Tensor
    h: Tensor
    y: Tensor


@torch.no_grad()
def seen(model: Transformer, batches: Sequence[Batch]) -> dict[str, Seen]:
    """What each layer got and gave, by the layer's name, without padding; in the order of the text.

    Layers without a feed-forward layer of this library are left out.
    """
    found: dict[str, list[tuple[Tensor, ...]]] = {}
    for batch in batches:
        with _watched(model) as calls:
            model(batch.source, batch.target)
        real = {"encoder": batch.source != PAD, "decoder": batch.labels != PAD}
        for name, parts in calls.items():
            rows = real[name.split(".")[0]]
            found.setdefault(name, []).append(tuple(part[rows] for part in parts))
    return {name: Seen(*map(torch.cat, zip(*each, strict=True))) for name, each in found.items()}


@contextmanager
def _watched(model: Transformer) -> Iterator[dict[str, list[Tensor]]]:
    """Collects each layer's x, h and y, in this order, while the model is called once.

    A layer that several places share is called once for each, one place after the other.
    """
    calls: dict[str, list[Tensor]] = {}
    place: list[str] = []
    hooks = []

    def enter(name: str) -> Any:
        return lambda module, inputs: place.append(name)

    def take_x(module: Any, inputs: tuple[Any, ...]) -> None:
        calls[place[-1]] = [inputs[0]]

    def take_h(module: Any, inputs: tuple[Any, ...]) -> None:
        calls[place[-1]].append(inputs[0])

    def take_y(module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls[place[-1]].append(output)

    layers = layers_of(model)
    ffns = {id(m): m for m in (each.feed_forward for each in layers.values())}
    for name, layer in layers.items():
        hooks.append(layer.register_forward_pre_hook(enter(name)))
    for module in ffns.values():
        if isinstance(module, FeedForward):
            hooks.append(module.register_forward_pre_hook(take_x))
            hooks.append(module.down.register_forward_pre_hook(take_h))
            hooks.append(module.register_forward_hook(take_y))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
