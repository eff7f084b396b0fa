"""Which calls the engine takes, which go to the original; nobody can tell but by time."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from layers import (
    D_FF,
    D,
    Own,
    drawn,
    encoder_layer,
    pair,
    same,
)
from reluctant.errors import ReluctantError, ReluctantWarning
from reluctant.feedforward import FeedForward
from reluctant.surgery import optimize, restore
from reluctant.surgery.swap import seat_of


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


PARTS = ["linear1", "activation", "dropout", "linear2", "dropout3"]


@pytest.mark.parametrize("part", PARTS)
def test_hooks_added_later_fire(part: str) -> None:
    layer = nn.TransformerDecoderLayer(D, 2, D_FF, 0.0, nn.ReLU(), batch_first=True)
    layer, twin, calls = pair(layer)
    x = drawn(2, 5, D).requires_grad_()
    module = getattr(layer, part)
    seen: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_: seen.append("forward")),
        module.register_forward_pre_hook(lambda *_: seen.append("pre")),
        module.register_full_backward_hook(lambda *_: seen.append("backward")),
        module.register_full_backward_pre_hook(lambda *_: seen.append("backward_pre")),
    ]
    for i, names in enumerate([("forward",), ("pre",), ("backward",), ("backward_pre",)]):
        seen.clear()
        same(layer(x, x), twin(x, x))
        layer(x, x).sum().backward()
        assert set(names) <= set(seen)
        hooks[i].remove()
    assert calls() == 0
    same(layer(x, x), twin(x, x))
    assert calls() == 1


def test_hooks_of_the_layer_itself_fire_too() -> None:
    layer, twin, calls = pair(Own())
    handle = layer.register_forward_hook(lambda module, args, y: y + 1)
    same(layer(drawn(3, D)), twin(drawn(3, D)) + 1)
    handle.remove()
    with torch.nn.modules.module.register_module_forward_hook(lambda *_: None):
        same(layer(drawn(3, D)), twin(drawn(3, D)))
    assert calls() == 1


class LowRank(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.a, self.b = nn.Linear(base.in_features, 2), nn.Linear(2, base.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.b(self.a(x))


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def _adapt(m: nn.Module) -> None:
    torch.manual_seed(1)
    m.up = LowRank(m.up)


def _forward(m: nn.Module) -> None:
    m.up.forward = lambda x: F.linear(x, -m.up.weight)


def _drop(m: nn.Module) -> None:
    m.dropout = nn.Hardtanh(-1.0, 0.5)


def _patch(m: nn.Module) -> None:
    plain = Own.forward
    m.forward = lambda x: -plain(m, x)


class Negated(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


def _reclass(m: nn.Module) -> None:
    m.up.__class__ = Negated


def _retype(m: nn.Module) -> None:
    m.down.bfloat16()
    m.dropout.register_forward_hook(lambda module, args, y: y.bfloat16())


LATER = {
    "adapter": _adapt,
    "parametrization": lambda m: parametrize.register_parametrization(m.up, "weight", Halved()),
    "pruning": lambda m: prune.l1_unstructured(m.up, "weight", 0.5),
    "instance forward": _forward,
    "other part": _drop,
    "own forward": _patch,
    "other dtype": _retype,
    "other class of a part": _reclass,
    "new weight": lambda m: setattr(m.up, "weight", nn.Parameter(m.up.weight.detach() * -2)),
}


@pytest.mark.parametrize("change", LATER)
def test_a_layer_changed_later_computes_what_it_became(change: str) -> None:
    layer, twin, _ = pair(Own().eval())
    same(layer(drawn(3, D)), twin(drawn(3, D)))
    for model in (layer, twin):
        LATER[change](model)
    same(layer(drawn(3, D)), twin(drawn(3, D)))
    again = optimize(nn.ModuleList([layer, FeedForward(D, D_FF)]))
    assert len(again.swapped) + len(again.refused) + len(again.untouched) >= 1
    same(layer(drawn(3, D)), twin(drawn(3, D)))
    restore(layer)
    assert type(layer) is Own
    same(layer(drawn(3, D)), twin(drawn(3, D)))


def test_a_part_replaced_is_served_by_a_new_engine() -> None:
    layer, twin, calls = pair(Own())
    fresh = nn.Linear(D, D_FF)
    layer.up = twin.up = fresh
    same(layer(drawn(3, D)), twin(drawn(3, D)))
    (entry,) = optimize(layer).swapped
    assert entry.reason == ""
    same(layer(drawn(3, D)), twin(drawn(3, D)))
    assert (calls(), sum(entry.engine.calls.values())) == (0, 1)


def test_a_class_patched_later(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, twin, _ = pair(Own())
    same(layer(drawn(3, D)), twin(drawn(3, D)))
    monkeypatch.setattr(Own, "forward", lambda self, x: self.down(self.up(x)))
    same(layer(drawn(3, D)), twin(drawn(3, D)))


def test_a_longer_sequential() -> None:
    layer, twin, _ = pair(nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D)))
    for model in (layer, twin):
        model.append(nn.Sigmoid())
    same(layer(drawn(3, D)), twin(drawn(3, D)))


def test_an_activation_changed_later() -> None:
    layer, twin, _ = pair(encoder_layer().eval())
    for model in (layer, twin):
        model.activation = F.gelu
        model.activation_relu_or_gelu = 2
    same(layer(drawn(1, 3, D)), twin(drawn(1, 3, D)))


def test_other_arguments_go_to_the_original() -> None:
    layer, twin, calls = pair(Own())
    x = drawn(3, D)
    same(layer(hidden=x), twin(x))
    assert calls() == 1
    same(layer(x, 3.0), twin(x, 3.0))
    same(layer(x, scale=3.0), twin(x, scale=3.0))
    assert calls() == 1
    for bad in (drawn(3, D + 1), torch.ones(3, D, dtype=torch.long), x.double()):
        with pytest.raises(RuntimeError) as ours:
            layer(bad)
        with pytest.raises(RuntimeError) as theirs:
            twin(bad)
        assert str(ours.value) == str(theirs.value)
    with pytest.raises(TypeError):
        layer()
    ffn, _, _ = pair(FeedForward(D, D_FF))
    with pytest.raises(ReluctantError, match=str(D)):
        ffn(drawn(3, D + 1))


SECRET: list[bool] = []


class Secretive(Own):
    """Goes by something that nothing on the module shows."""

    def forward(self, hidden: Tensor, scale: float = 1.0) -> Tensor:
        y = super().forward(hidden, scale)
        return 2 * y if SECRET else y


def test_the_first_real_call_tells_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, twin, calls = pair(Secretive())
    monkeypatch.setitem(globals(), "SECRET", [True])
    x = drawn(3, D).requires_grad_()
    with pytest.warns(ReluctantWarning, match="d_model=64"):
        y = layer(x)
    assert torch.equal(y, twin(x))
    y.sum().backward()
    assert x.grad is not None
    assert type(layer) is Secretive
    assert seat_of(layer) is None
    assert calls() == 1
    assert layer.down.weight.is_contiguous()
    assert torch.equal(layer(x), twin(x))


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_products_of_less_precision_are_no_mismatch(precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        layer = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))
        layer, twin, calls = pair(layer)
        torch.testing.assert_close(layer(drawn(9, 512)), twin(drawn(9, 512)), rtol=0.1, atol=0.02)
        assert calls() == 1
        assert seat_of(layer) is not None
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_first_call_that_is_not_finite(value: float) -> None:
    layer, twin, calls = pair(Own())
    x = drawn(4, D)
    x[1, 2] = value
    ours, theirs = layer(x), twin(x)
    assert torch.equal(ours.isfinite(), theirs.isfinite())
    torch.testing.assert_close(ours[[0, 2, 3]], theirs[[0, 2, 3]])
    assert calls() == 1
    assert seat_of(layer) is not None
    assert layer(drawn(0, D)).shape == (0, D)


@pytest.mark.parametrize("enable", [True, False])
def test_padding_masks(enable: bool) -> None:
    model = nn.TransformerEncoder(encoder_layer(0.1), 2, enable_nested_tensor=enable).eval()
    twin = copy.deepcopy(model)
    report = optimize(model)
    nested: list[bool] = []
    first = model.layers[0]
    first.register_forward_pre_hook(lambda module, args: nested.append(args[0].is_nested))
    for lengths in ([7, 3, 5], [7, 1, 7]):
        x = drawn(3, 7, D, seed=lengths[1])
        mask = torch.arange(7)[None, :] >= torch.tensor(lengths)[:, None]
        for context in (torch.no_grad, torch.inference_mode):
            with context(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*nested tensors.*prototype.*")
                ours = model(x, src_key_padding_mask=mask)
                theirs = twin(x, src_key_padding_mask=mask)
            same(ours[~mask], theirs[~mask])
            assert ours.shape == theirs.shape
    assert nested == [enable] * 4
    assert all(sum(entry.engine.calls.values()) == 4 for entry in report.swapped)


def test_nested_tensors_with_gradients() -> None:
    layer, twin, _ = pair(nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D)))
    grads: list[Tensor] = []
    for model in (layer, twin):
        parts = [drawn(3, D).requires_grad_(), drawn(5, D).requires_grad_()]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*nested tensors.*prototype.*")
            y = model(torch.nested.as_nested_tensor(parts))
        torch.cat(y.unbind()).square().sum().backward()
        grads.append(torch.cat([part.grad for part in parts if part.grad is not None]))
    same(*grads)


def test_the_fused_path_is_off() -> None:
    layer, twin, calls = pair(encoder_layer().eval())
    with torch.no_grad():
        same(layer(drawn(2, 3, D)), twin(drawn(2, 3, D)))
    assert calls() == 1
