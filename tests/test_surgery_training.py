"""Gradients, dropout and optimizers are what they were."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import (
    D_FF,
    D,
    Own,
    drawn,
    encoder_layer,
    pair,
    same,
)
from reluctant.feedforward import FeedForward
from reluctant.surgery import optimize, restore


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Quiet(Own):
    """With a dropout that is no submodule."""

    def forward(self, hidden: Tensor) -> Tensor:
        h = F.dropout(F.relu(self.up(hidden)), 0.1, self.training)
        return self.down(h)


@pytest.mark.parametrize("make", [Own, encoder_layer, lambda: FeedForward(D, D_FF)])
def test_gradients_are_eagers(make: Callable[[], nn.Module]) -> None:
    layer, twin, calls = pair(make())
    x, y = drawn(2, 5, D).requires_grad_(), drawn(2, 5, D).requires_grad_()
    for _ in range(2):
        layer(x).square().sum().backward()
        twin(y).square().sum().backward()
    same(x.grad, y.grad)
    for (name, mine), theirs in zip(layer.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-4, msg=name)
    assert calls() == 2


def test_training_goes_on_as_before() -> None:
    layer = nn.TransformerEncoder(encoder_layer(), 2, enable_nested_tensor=False)
    twin = copy.deepcopy(layer)
    report = optimize(layer)
    losses: list[list[float]] = []
    for model in (layer, twin):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
        losses.append([])
        for _ in range(6):
            loss = F.mse_loss(model(drawn(4, 6, D)), drawn(4, 6, D, seed=1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)
    assert losses[0][-1] < losses[0][0]
    assert all(sum(entry.engine.calls.values()) == 6 for entry in report.swapped)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_an_optimizer_survives_optimize_and_restore(
    kind: Callable[..., torch.optim.Optimizer], fused: bool
) -> None:
    """Fused optimizers keep moments in the memory order that the weights had in the first step:
    no weight may be moved."""
    models = [nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D)) for _ in "ab"]
    models[1].load_state_dict(models[0].state_dict())
    more = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizers = [kind(m.parameters(), lr=1e-2, fused=fused, **more) for m in models]
    fresh = kind(models[0].parameters(), lr=1e-2, fused=fused, **more)

    def train() -> None:
        for model, optimizer in zip(models, optimizers, strict=True):
            for step in range(3):
                loss = F.mse_loss(model(drawn(4, D, seed=step)), drawn(4, D, seed=9))
                optimizer.zero_grad(set_to_none=False)
                loss.backward()
                optimizer.step()
        same(*(model[2].weight for model in models))

    train()
    optimize(models[0])
    assert models[0][2].weight.is_contiguous()
    train()
    saved = optimizers[1].state_dict()  # with moments in the usual order
    fresh.load_state_dict(copy.deepcopy(saved))
    optimizers[0] = fresh
    train()
    restore(models[0])
    train()


def test_a_dropout_that_is_no_submodule_is_torchs() -> None:
    layer, twin, calls = pair(Quiet().train())
    x = drawn(2, 5, D)
    for seed in range(3):
        torch.manual_seed(seed)
        mine = layer(x)
        torch.manual_seed(seed)
        same(mine, twin(x))
    assert calls() == 0
    same(layer.eval()(x), twin.eval()(x))
    assert calls() == 1


def test_dropout_for_uncertainty_acts_in_eval_mode() -> None:
    layer, _, calls = pair(encoder_layer(0.5).eval())
    x = drawn(2, 5, D)
    assert torch.equal(layer(x), layer(x))
    layer.dropout.train()
    assert not torch.equal(layer(x), layer(x))
    with torch.no_grad():
        assert not torch.equal(layer(x), layer(x))
    assert calls() == 6
