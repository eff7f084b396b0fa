"""How many neurons are active in each feed-forward layer while sentences are decoded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.engine import Engine
from reluctant.transformer import Transformer


@dataclass(frozen=True)
class Layer:
    """One feed-forward layer. name: in the model.

    active: active neurons as a share of all, over all positions it computed. candidates: those
    that the engine has to look at, likewise.
    """

    name: str
    active: float
    candidates: float


@torch.no_grad()
def count(
    model: Transformer,
    engines: Mapping[str, Engine],
    sources: Sequence[Tensor],
    targets: Sequence[Sequence[int]],
) -> list[Layer]:
    """Count at the positions of the sources and at those of all steps of the decoding.

    model: untouched. engines: by the names of the layers there. sources: ids (1, m). targets: the
    ids that were decoded. One pass over each target: the causal mask lets no position see those
    after it, so each layer is given what it was given step by step.
    """
    totals = {name: torch.zeros(3, dtype=torch.int64) for name in engines}

    def counter(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(module: nn.Module, args: tuple[Any, ...]) -> None:
            totals[name] += torch.tensor(engines[name].census(args[0]))

        return add

    hooks = [model.get_submodule(name).register_forward_pre_hook(counter(name)) for name in engines]
    try:
        for source, target in zip(sources, targets, strict=True):
            model(source, torch.tensor([[model.config.bos, *target[:-1]]]))
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for name, (tokens, active, candidates) in ((n, t.tolist()) for n, t in totals.items()):
        neurons = tokens * engines[name].neurons.d_ff
        found.append(Layer(name, active / neurons, candidates / neurons))
    return found
