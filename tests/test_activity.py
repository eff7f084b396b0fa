"""`density` tells, `activity_penalty` adds an L1 term; both go by what the layers count anyway."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import reluctant
from layers import D_FF, D, drawn
from reluctant import ReluctantError, ReluctantWarning, activity_penalty, density
from reluctant.feedforward import FeedForward
from reluctant.surgery import optimize

TOKENS = 80


def model_of(*activations: str, bias: float = -0.5) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [FeedForward(D, D_FF, name) for name in activations]
    with torch.no_grad():
        for layer in layers:
            (layer.gate or layer.up).bias += bias
    return nn.Sequential(*layers)


def mean_size(model: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """The mean of |h| over tokens, neurons and layers, the obvious way."""
    means = []
    for layer in model:
        assert isinstance(layer, FeedForward)
        h = layer.activation((layer.gate or layer.up)(x))
        h = h if layer.gate is None else h * layer.up(x)
        means.append(h.abs().mean())
        x = F.linear(h, layer.down.weight, layer.down.bias)
    return torch.stack(means).mean()


@pytest.mark.parametrize("bias", [-0.5, 3.0])  # over active neurons, and all of them
@pytest.mark.parametrize("names", [("relu", "relu2"), ("reglu", "hardswish")])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_penalty_is_an_l1_term(names: tuple[str, ...], bias: float, checkpointed: bool) -> None:
    model = model_of(*names, bias=bias)
    twin = copy.deepcopy(model)
    optimize(model)
    penalty = activity_penalty(model, 3.0)
    x = drawn(TOKENS, D)
    for _ in range(2):
        model.zero_grad()
        y = checkpoint(model, x, use_reentrant=False) if checkpointed else model(x)
        assert isinstance(y, torch.Tensor)
        term = penalty()
        (y.square().mean() + term).backward()
    wanted = 3 * mean_size(twin, x)
    torch.testing.assert_close(term, wanted)
    (twin(x).square().mean() + wanted).backward()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert float((mine.grad - other.grad).norm() / other.grad.norm().clamp_min(1e-9)) < 1e-5


def test_a_term_is_of_all_calls_since_the_last() -> None:
    model = model_of("relu")
    twin = copy.deepcopy(model)
    optimize(model)
    penalty = activity_penalty(model, 1.0)
    xs = drawn(TOKENS, D), drawn(3 * TOKENS, D, seed=1)
    for x in xs:
        model(x)
    torch.testing.assert_close(penalty(), mean_size(twin, torch.cat(xs)))
    with pytest.raises(ReluctantError, match="expected a forward pass with gradients"):
        penalty()
    with torch.no_grad():
        model(xs[0])
    with pytest.raises(ReluctantError, match="use_reentrant=False"):
        penalty()


def test_the_weight_has_a_schedule() -> None:
    model = model_of("relu")
    optimize(model)
    penalty = activity_penalty(model, 2.0, start=1, ramp=4)
    weights = []
    for _ in range(7):
        weights.append(penalty.weight)
        model(drawn(TOKENS, D))
        penalty()
    assert weights == [0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    own = activity_penalty(model, lambda step: 10.0 - step)
    model(drawn(TOKENS, D))
    own()
    assert own.weight == 9.0


def test_the_last_penalty_counts_and_can_be_removed() -> None:
    model = model_of("relu")
    optimize(model)
    first, second = activity_penalty(model, 1.0), activity_penalty(model, 1.0)
    model(drawn(TOKENS, D))
    with pytest.raises(ReluctantError):
        first()
    second()
    first.remove()  # has no say any more
    model(drawn(TOKENS, D))
    second()
    second.remove()
    model(drawn(TOKENS, D))
    with pytest.raises(ReluctantError):
        second()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other(drawn(TOKENS, D)).sum().backward()


def test_it_makes_neurons_silent() -> None:
    x, y = drawn(200, D), drawn(200, D, seed=1)
    shares = []
    for weight in (0.0, 3.0):
        model = model_of("relu", bias=0.0)
        optimize(model)
        penalty = activity_penalty(model, weight)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            (F.mse_loss(model(x), y) + penalty()).backward()
            optimizer.step()
        shares.append(density(model)["0"])
    assert shares[1] < shares[0] / 2


def test_layers_that_torch_computes_are_named() -> None:
    model = model_of("relu", "relu")
    optimize(model)
    penalty = activity_penalty(model, 1.0)
    handle = model[1].up.register_forward_hook(lambda *_: None)
    model(drawn(TOKENS, D))
    with pytest.warns(ReluctantWarning, match="does not reach 1: torch computed"):
        penalty()
    handle.remove()
    model(drawn(TOKENS, D))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        penalty()


def test_the_penalty_in_compiled_code() -> None:
    model = model_of("relu")
    twin = copy.deepcopy(model)
    optimize(model)
    x = drawn(TOKENS, D)
    model(x)
    penalty = activity_penalty(model, 1.0)
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(2):
        compiled(x)
        torch.testing.assert_close(penalty(), mean_size(twin, x))


def test_density_is_a_running_share() -> None:
    model = model_of("relu", "gelu", bias=0.0)
    model.add_module("other", nn.Linear(D, D))
    optimize(model, parts=("feed_forward",))
    assert density(model) == {"0": None, "1": None}
    x = drawn(TOKENS, D)
    shares = []
    for shift in (0.0, -1.0):
        with torch.no_grad():
            model[0].up.bias += shift
        z = model[0].up(x)
        shares.append(float((z > 0).float().mean()))
        model(x)
    expected = 0.9 * shares[0] + 0.1 * shares[1]
    assert density(model) == {"0": pytest.approx(expected, abs=1e-3), "1": None}
    with torch.no_grad():
        model(x)
    assert density(model) == {"0": pytest.approx(expected, abs=1e-3), "1": None}


def test_what_is_refused() -> None:
    plain = model_of("relu")
    with pytest.raises(ReluctantError, match="call optimize"):
        activity_penalty(plain, 1.0)
    smooth = model_of("gelu")
    optimize(smooth)
    with pytest.raises(ReluctantError, match="exactly zero somewhere"):
        activity_penalty(smooth, 1.0)
    optimize(plain)
    for weight in (-1.0, float("nan"), float("inf"), "1", True, None):
        with pytest.raises(ReluctantError, match="weight"):
            activity_penalty(plain, weight)  # type: ignore[arg-type]
    for bad in ({"start": -1}, {"ramp": 0.5}, {"ramp": True}):
        with pytest.raises(ReluctantError, match="number of steps"):
            activity_penalty(plain, 1.0, **bad)  # type: ignore[arg-type]
    with pytest.raises(ReluctantError, match="either a function"):
        activity_penalty(plain, lambda step: 1.0, ramp=3)
    for call in (density, lambda m: activity_penalty(m, 1.0)):
        with pytest.raises(ReluctantError, match=r"an nn\.Module"):
            call("model")  # type: ignore[arg-type]
    assert "activity_penalty" in reluctant.__all__
