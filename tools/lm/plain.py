"""What `reluctant.activity_penalty` and `reluctant.density` do, in plain torch: to compare with."""

from typing import Any

import torch
from torch import Tensor

from tools.lm.model import LanguageModel


class PlainPenalty:
    """weight times the mean of |h| over tokens, neurons and layers; the weight grows over `ramp`
    steps. Called once a step.
    """

    def __init__(self, model: LanguageModel, weight: float, ramp: int) -> None:
        self.full, self.ramp, self.steps = weight, ramp, 0
        self._means: list[Tensor] = []
        for activation in model.activations():
            activation.register_forward_hook(self._take)

    def _take(self, module: object, inputs: object, h: Tensor) -> None:
        if torch.is_grad_enabled():
            self._means.append(h.mean())  # which is that of |h|, and faster: h is never negative

    def __call__(self) -> Tensor:
        means, self._means = self._means, []
        share = self.steps / self.ramp if self.steps < self.ramp else 1.0
        self.steps += 1
        return self.full * share * torch.stack(means).mean()


@torch.no_grad()
def density(model: LanguageModel, ids: Tensor) -> list[float]:
    """The share of active neurons of each layer, in a forward pass of its own."""
    shares: list[float] = []

    def count(module: object, inputs: Any, h: Tensor) -> None:
        shares.append(int(torch.count_nonzero(h)) / h.numel())

    handles = [each.register_forward_hook(count) for each in model.activations()]
    model(ids)
    for handle in handles:
        handle.remove()
    return shares
