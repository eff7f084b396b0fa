"""Keeps fused optimizers right when a weight's memory layout changes in mid-training.

Engines store W2 transposed, and `restore` undoes that. Torch's fused CPU optimizers (seen in 2.13)
walk weight, gradient and their own state (moments ...) in the order of memory, as if all three had
the same strides: state from before the change would go to the wrong weights, silently. Optimizer
state that was saved under another layout does the same.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook


@torch.no_grad()
def match_strides(optimizer: Optimizer, *_: Any) -> None:
    """Before a fused step: lay out gradients and state as their matrices are. Values stay."""
    for group in optimizer.param_groups:
        if not group.get("fused"):
            continue
        for weight in group["params"]:
            if weight.dim() != 2:
                continue
            if weight.grad is not None and _differ(weight.grad, weight):
                weight.grad = _like(weight.grad, weight)
            state = optimizer.state.get(weight, {})
            for name, held in list(state.items()):
                if isinstance(held, Tensor) and _differ(held, weight):
                    state[name] = _like(held, weight)


def _differ(held: Tensor, weight: Tensor) -> bool:
    return (
        held.shape == weight.shape
        and held.stride() != weight.stride()
        and held.layout == weight.layout == torch.strided
    )


def _like(held: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(weight, dtype=held.dtype).copy_(held)


register_optimizer_step_pre_hook(match_strides)
