"""Layers at the edge of what is a layer, beside good ones: served or refused, each by itself."""

import copy
from inspect import unwrap
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layers import D_FF, D, Own, drawn, same, served
from reluctant import activations
from reluctant.feedforward import FeedForward
from reluctant.surgery import optimize, restore


def stack(d_model: int, d_ff: int) -> nn.Module:
    return nn.Sequential(nn.Linear(d_model, d_ff), nn.ReLU(), nn.Linear(d_ff, d_model))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("way", ["auto", "few", "many", "dense"])
@pytest.mark.parametrize("sizes", [(16, 0), (16, 1), (1, 16), (1, 1), (16, 16), (0, 16), (2, 3)])
def test_sizes(sizes: tuple[int, int], way: str) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"odd": stack(*sizes), "good": stack(D, D_FF)}).eval()
    twin = copy.deepcopy(model)
    report = optimize(model, way=way)
    names = [entry.name for entry in report.swapped]
    assert names == (["good"] if 0 in sizes else ["odd", "good"])
    assert all("no neurons" in entry.reason for entry in report.refused)
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            for rows in ((), (1,), (3,), (2, 20), (0,)):
                for name, width in (("odd", sizes[0]), ("good", D)):
                    x = drawn(*rows, width)
                    same(model[name](x), twin[name](x))
    str(report)
    assert restore(model) == len(names)


class Explodes(nn.Module):
    """Has the form of a layer; looking at it raises."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, D_FF), nn.Linear(D_FF, D)

    def __getattr__(self, name: str) -> Any:
        if name == "up":
            raise OSError("the disk\nis gone")
        return super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


class Odd(nn.Module):
    """An activation whose attribute cannot be looked at."""

    class Number:
        def __eq__(self, other: object) -> bool:
            raise ZeroDivisionError("no comparing")

        __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.number = Odd.Number()

    def forward(self, z: Tensor) -> Tensor:
        return z.relu()


def test_one_layer_that_raises_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(Own(), FeedForward(D, D_FF), stack(D, D_FF)).eval()
    twin = copy.deepcopy(model)
    engine = unwrap(optimize).__globals__["Engine"]
    seen: list[object] = []

    def fails(*args: Any, **kwargs: Any) -> Any:
        seen.append(args)
        if len(seen) == 2:
            raise MemoryError("no room\nfor this")
        return engine(*args, **kwargs)

    monkeypatch.setitem(unwrap(optimize).__globals__, "Engine", fails)
    before = dict(model[1].__dict__)
    report = optimize(model)
    assert [entry.name for entry in report.swapped] == ["0", "2"]
    (entry,) = report.refused
    assert entry.name == "1"
    assert "MemoryError: no room for this" in entry.reason
    assert type(model[1]) is FeedForward
    assert model[1].__dict__ == before
    same(model(drawn(3, D)), twin(drawn(3, D)))


def test_a_module_that_cannot_be_looked_at() -> None:
    model = nn.Sequential(Explodes(), stack(D, D_FF)).eval()
    report = optimize(model)
    assert [entry.name for entry in report.swapped] == ["1"]
    assert len(served(model)) == 1


def test_an_activation_that_cannot_be_compared() -> None:
    model = nn.Sequential(
        nn.Sequential(nn.Linear(D, D_FF), Odd(), nn.Linear(D_FF, D)), stack(D, D_FF)
    ).eval()
    twin = copy.deepcopy(model)
    report = optimize(model)
    assert "1" in [entry.name for entry in report.swapped]
    for _ in range(2):
        same(model(drawn(3, D)), twin(drawn(3, D)))


def test_identify_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(activations, "_first_match", broken)
    assert activations.identify(nn.ReLU()) is None
