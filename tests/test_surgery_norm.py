"""Surgery on layers with a root-mean-square norm before the last map, BitNet's."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.bitnet.modeling_bitnet import BitNetRMSNorm

import reluctant
from families import FAMILIES
from layers import D_FF, D, drawn, pair, same, served


class Layer(nn.Module):
    """BitNet's; `do` says what its forward returns."""

    def __init__(self, norm: nn.Module | None = None, do: Callable[..., Tensor] | None = None):
        super().__init__()
        torch.manual_seed(0)
        self.gate_proj, self.up_proj = (nn.Linear(D, D_FF, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(D_FF, D, bias=False)
        self.norm = BitNetRMSNorm(D_FF) if norm is None else norm
        self.do = do

    def forward(self, x: Tensor) -> Tensor:
        if self.do is not None:
            return self.do(self, x)
        return self.down_proj(self.norm(F.relu(self.gate_proj(x)) * self.up_proj(x)))

    def product(self, x: Tensor) -> Tensor:
        return F.relu(self.gate_proj(x)) * self.up_proj(x)


class Ungated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(D, D_FF), BitNetRMSNorm(D_FF), nn.Linear(D_FF, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.norm(F.relu(self.up(x))))


def _sequential() -> nn.Module:
    norm = nn.RMSNorm(D_FF, eps=1e-5)
    return nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), norm, nn.Linear(D_FF, D))


SERVED = [Layer, Ungated, _sequential, lambda: Layer(nn.RMSNorm(D_FF, eps=1e-6))]


@pytest.mark.parametrize("make", SERVED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_served_and_computes_the_same(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    layer = make().to(dtype).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    twin = copy.deepcopy(layer)
    report = reluctant.optimize(layer, way="few")
    ((entry,), engine) = report.swapped, report.swapped[0].engine
    assert entry.activation == "relu"
    assert engine is not None
    eps = torch.finfo(dtype).eps
    with torch.no_grad():
        for tokens in (1, 40):
            x = drawn(2, tokens, D, dtype=dtype)
            torch.testing.assert_close(layer(x), twin(x), rtol=20 * eps, atol=20 * eps)
        assert engine.calls == {"few": 2, "many": 0, "dense": 0, "training": 0}
        for each in (layer, twin):
            weights = [p for p in each.parameters() if p.dim() == 1]
            weights[0 if make is not Ungated else 1].mul_(-2)
        torch.testing.assert_close(layer(x), twin(x), rtol=20 * eps, atol=20 * eps)
    assert reluctant.restore(layer) == 1
    assert type(layer) is type(twin)


def test_a_whole_bitnet_in_bfloat16() -> None:
    (family,) = [family for family in FAMILIES if family.model == "BitNetForCausalLM"]
    model = family.build().bfloat16()
    twin = copy.deepcopy(model)
    report = reluctant.optimize(model, way="few")
    given = family.inputs(0, 5)
    with torch.no_grad():
        ours, theirs = model(**given).logits, twin(**given).logits
        before = [entry.engine.calls["few"] for entry in report.swapped if entry.engine]
        wide = twin.float()(**given).logits
    assert before == [1, 1]
    error, eager = (ours - wide).square().mean().sqrt(), (theirs - wide).square().mean().sqrt()
    assert error <= 1.5 * eager


def test_gradients_training_and_copies() -> None:
    layer, twin, calls = pair(Layer().train())
    for x in (drawn(3, D), drawn(2, 20, D)):
        for each in (layer, twin, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
            each.zero_grad()
            each(x).square().sum().backward()
            for a, b in zip(each.parameters(), layer.parameters(), strict=True):
                same(a.grad, b.grad)
    assert calls() > 0
    layer(x).sum().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()
    twin.load_state_dict(layer.state_dict())
    with torch.no_grad():
        same(layer(x), twin(x))


class Shifted(BitNetRMSNorm):
    """Gemma's way, with a weight that is zero at first."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states) + super().forward(hidden_states) / self.weight


class Unweighted(BitNetRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states) / self.weight


class OtherEps(BitNetRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden_states * torch.rsqrt(variance + 2 * self.variance_epsilon)


class InTraining(BitNetRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states) * (2 if self.training else 1)


class Centred(BitNetRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states - hidden_states.mean(-1, keepdim=True))


class Leaking(BitNetRMSNorm):
    """A zero does not stay one."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states) + 1e-39


NORMS = [Shifted, Unweighted, OtherEps, InTraining, Centred, Leaking]


@pytest.mark.parametrize("norm", NORMS)
def test_another_norm_is_refused(norm: Callable[[int], nn.Module]) -> None:
    (entry,) = reluctant.optimize(Layer(norm(D_FF))).refused
    assert "which is no root-mean-square norm" in entry.reason


@pytest.mark.parametrize("norm", [nn.LayerNorm(D_FF), nn.RMSNorm(D_FF)])
def test_a_norm_without_an_eps_or_with_more_is_refused(norm: nn.Module) -> None:
    (entry,) = reluctant.optimize(Layer(norm)).refused
    assert f"a {type(norm).__name__} of all d_ff neurons stands before" in entry.reason


FORWARDS: list[Callable[..., Tensor]] = [
    lambda m, x: m.down_proj(m.product(x)),
    lambda m, x: m.down_proj(2 * m.norm(m.product(x))),
    lambda m, x: m.down_proj(m.norm(2 * m.product(x))),
    lambda m, x: m.down_proj(m.norm(m.norm(m.product(x)))),
    lambda m, x: m.down_proj(m.norm(m.product(x)).detach()),
    lambda m, x: m.down_proj(m.norm(m.product(x).detach())),
    lambda m, x: m.down_proj(m.norm(m.product(x)) + m.product(x)),
    lambda m, x: m.down_proj(m.norm(F.relu(m.gate_proj(x))) * m.up_proj(x)),
    lambda m, x: m.down_proj(F.relu(m.norm(m.gate_proj(x))) * m.up_proj(x)),
    lambda m, x: m.down_proj(m.norm.forward(m.product(x))),
    lambda m, x: F.linear(m.norm(m.product(x)), m.down_proj.weight),
]


@pytest.mark.parametrize("do", FORWARDS)
def test_a_forward_that_does_something_else_is_not_served(do: Callable[..., Tensor]) -> None:
    report = reluctant.optimize(nn.ModuleList([Layer(do=do), Layer()]))
    assert [entry.name for entry in report.swapped] == ["1"]
    assert [entry.name for entry in (*report.refused, *report.untouched)] == ["0"]


def test_a_norm_before_the_activation_is_not_served() -> None:
    layer = nn.Sequential(nn.Linear(D, D_FF), BitNetRMSNorm(D_FF), nn.ReLU(), nn.Linear(D_FF, D))
    report = reluctant.optimize(nn.ModuleList([layer, Layer()]))
    assert [entry.name for entry in report.swapped] == ["1"]
    (entry,) = report.untouched
    assert "does not get what its norm returns" in entry.reason


def test_a_norm_that_is_watched_or_replaced_is_the_originals() -> None:
    layer, twin, calls = pair(Layer())
    x, seen = drawn(3, D), []
    hook = layer.norm.register_forward_hook(lambda *_: seen.append(1))
    same(layer(x), twin(x))
    assert (len(seen), calls()) == (1, 0)
    (entry,) = reluctant.optimize(nn.ModuleList([copy.deepcopy(twin), _hooked()])).refused
    assert "norm has hooks" in entry.reason
    hook.remove()
    same(layer(x), twin(x))
    assert calls() == 1
    layer.norm = Unweighted(D_FF)
    layer(x)
    assert calls() == 1


def _hooked() -> nn.Module:
    layer = Layer()
    layer.norm.register_forward_pre_hook(lambda *_: None)
    return layer


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_norm_of_another_dtype_is_refused(dtype: torch.dtype) -> None:
    layer = Layer()
    layer.norm.to(dtype)
    (entry,) = reluctant.optimize(layer).refused
    assert "mixed dtypes: norm.weight" in entry.reason


def test_a_drawn_norm_is_the_first_calls_too() -> None:
    """A scale that only real weights have: the first real call compares, and `agree` allows it."""
    layer, twin, calls = pair(Layer())
    with torch.no_grad():
        for size in (1e-4, 1.0, 1e3):
            same(layer(size * drawn(5, D)), twin(size * drawn(5, D)))
    assert calls() == 3
    assert len(served(layer)) == 1
