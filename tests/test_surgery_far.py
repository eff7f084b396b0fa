"""Forwards that bend what stands between their maps far beyond the values that are common."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import D_FF, D, Odd, drawn
from reluctant.feedforward import FeedForward
from reluctant.surgery import optimize


class Bent(nn.Module):
    """With an activation submodule that is a plain ReLU, and something after it, or before."""

    def __init__(self, after: Callable[[Tensor], Tensor], gated: bool = False) -> None:
        super().__init__()
        self.up, self.down, self.act = nn.Linear(D, D_FF), nn.Linear(D_FF, D), nn.ReLU()
        self.gate = nn.Linear(D, D_FF) if gated else None
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(self.after(self.act(self.up(x))))
        return self.down(self.after(self.act(self.gate(x)) * self.up(x)))


FAR: list[Callable[[Tensor], Tensor]] = [
    lambda h: h.clamp(max=2e4),
    lambda h: h.clamp(max=1e20),
    lambda h: h.clamp(max=3e38),
    lambda h: torch.where(h.abs() < 1e-30, 1.0, h),
]


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("after", FAR)
def test_is_not_taken_for_a_plain_layer(after: Callable[[Tensor], Tensor], gated: bool) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"no": Bent(after, gated), "same": Bent(lambda h: h, gated), "yes": FeedForward(D, D_FF)}
    ).eval()
    twin = copy.deepcopy(model)
    assert [entry.name for entry in optimize(model).swapped] == ["same", "yes"]
    for size in (1.0, 1e10, 1e30):
        x = size * drawn(2, D)
        torch.testing.assert_close(model["no"](x), twin["no"](x), equal_nan=True)


@pytest.mark.parametrize("cap", [2e4, 65504.0, 1e30])
def test_caps_of_activation_modules_and_functions(cap: float) -> None:
    torch.manual_seed(0)
    capped = nn.Sequential(nn.Linear(D, D_FF), nn.Hardtanh(0.0, cap), nn.Linear(D_FF, D))
    model = nn.ModuleList([capped, Odd(lambda z: F.relu(z).clamp(max=cap)), FeedForward(D, D_FF)])
    twin = copy.deepcopy(model.eval())
    assert [entry.name for entry in optimize(model).swapped] == ["2"]
    with torch.no_grad():
        x = 1e3 * cap * drawn(2, D)
        for ours, theirs in zip(model[:2], twin[:2], strict=True):
            assert torch.equal(ours(x), theirs(x))
