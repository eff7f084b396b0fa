"""The activity penalty and the densities of a model that no engine serves: in plain torch, to
compare with, and for `--no-engine`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from reluctant.feedforward import FeedForward


class PlainActivity:
    """Sees what each feed-forward layer hands to its second map.

    Called, it gives what `reluctant.ActivityPenalty` gives. full, steps, ramp: as there.
    count: whether the next forward pass counts active neurons for `density()`.
    """

    def __init__(self, model: nn.Module, weight: float, ramp: int) -> None:
        self.full, self.ramp, self.steps, self.count = weight, ramp, 0, False
        self._sizes: dict[str, list[Tensor]] = {}
        self._active: dict[str, list[int]] = {}
        for name, module in model.named_modules():
            if isinstance(module, FeedForward):
                module.down.register_forward_pre_hook(_Taken(self, name))

    def take(self, name: str, h: Tensor) -> None:
        """Learn of one layer's hidden vectors h (..., d_ff)."""
        if self.full and torch.is_grad_enabled():
            self._sizes.setdefault(name, []).append(h.abs().float().mean())
        if self.count:
            counts = self._active.setdefault(name, [0, 0])
            counts[0] += int(torch.count_nonzero(h))
            counts[1] += h.numel()

    def __call__(self) -> Tensor:
        """The term of this step."""
        sizes, self._sizes = self._sizes, {}
        share = self.steps / self.ramp if self.steps < self.ramp else 1.0
        self.steps += 1
        means = [torch.stack(each).mean() for each in sizes.values()]
        return self.full * share * torch.stack(means).mean()

    def density(self) -> dict[str, float | None]:
        """Of each layer, since this was last called."""
        counted, self._active = self._active, {}
        return {name: active / pairs for name, (active, pairs) in counted.items()}


class _Taken:
    """A hook that can be copied along with its model."""

    def __init__(self, activity: PlainActivity, name: str) -> None:
        self.activity, self.name = activity, name

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.activity.take(self.name, inputs[0])
