"""`optimize`, `refresh` and `restore` while other threads call the model: never another answer."""

import copy
import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import D_FF, D, Model, drawn, served
from reluctant.surgery import optimize, refresh, restore


class Inline(nn.Module):
    """A layer inside a forward that does more, with dropouts that act in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, D_FF), nn.Linear(D_FF, D)
        self.activation_fn, self.dropout = F.relu, nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout(self.activation_fn(self.fc1(x)), 0.9, self.training)
        return x + self.dropout(self.fc2(h))


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.dropout = nn.Linear(D, D_FF), nn.Linear(D_FF, D), nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.relu(self.up(x))))


class Normed(nn.Module):
    """Normalises what comes to its last map, as BitNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(D, D_FF, bias=False) for _ in range(2))
        self.down_proj, self.norm = nn.Linear(D_FF, D, bias=False), nn.RMSNorm(D_FF, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.gate_proj(x)).square() * self.up_proj(x)
        return self.down_proj(self.norm(h))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Inline(), Own(), Normed(), Model()).eval()


@pytest.mark.parametrize("training", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_calls_while_a_model_is_changed(training: bool) -> None:
    calm = model()
    if training:  # dropouts that do not act, so that there is one answer
        for part in calm.modules():
            part.training = not isinstance(part, nn.Dropout | Inline)
    changed = copy.deepcopy(calm)
    inputs = [drawn(1, 1 + i, D, seed=i) for i in range(4)]
    with torch.no_grad():
        wanted = [calm(x) for x in inputs]
    flags = [part.training for part in calm.modules()]
    failures: list[str] = []
    stop = threading.Event()

    def call(turn: int) -> None:
        try:
            while not stop.is_set():
                turn += 1
                with torch.no_grad():
                    got = changed(inputs[turn % 4])
                if not torch.allclose(got, wanted[turn % 4], rtol=1e-3, atol=1e-4):
                    failures.append(f"off by {(got - wanted[turn % 4]).abs().max()}")
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=call, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    try:
        steps: list[Callable[[nn.Module], object]] = [optimize, refresh, optimize, restore]
        for step in steps:
            step(changed)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert not served(changed)
    assert [part.training for part in changed.modules()] == flags
    assert not any(part._forward_hooks for part in changed.modules())
