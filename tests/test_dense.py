"""The dense way: oneDNN's products and the fallback, against float64."""

import pytest
import torch
from torch import nn

from reluctant import dense
from reluctant.activations import names, resolve


@pytest.fixture(autouse=True)
def _any_size(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(dense, "_FUSED_WEIGHTS", 0)


def refuse(*_):
    raise RuntimeError("this build does not take that")


@pytest.mark.parametrize("activation", sorted(set(names())))
@pytest.mark.parametrize("pointwise", ["oneDNN", "missing", "refusing"])
@torch.no_grad()
def test_against_float64(monkeypatch, activation, pointwise):
    if pointwise != "oneDNN":
        monkeypatch.setattr(dense, "_POINTWISE", refuse if pointwise == "refusing" else None)
    up, down, f = nn.Linear(48, 96), nn.Linear(96, 48), resolve(activation)
    x = torch.randn(4, 10, 48)
    w2 = down.weight.t().contiguous().t()  # as the engine lays it out
    y = dense.feed_forward(x, (up.weight, up.bias), (w2, down.bias), f)
    z = x.double() @ up.weight.double().t() + up.bias.double()
    expected = f(z) @ down.weight.double().t() + down.bias.double()
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "relu6", "gelu", "silu", "hardswish"])
@torch.no_grad()
def test_nan_stays(activation):
    """oneDNN's own fused ReLU makes it 0."""
    up, x = nn.Linear(48, 96), torch.randn(40, 48)
    x[3, 5] = float("nan")
    y = dense.linear(x, up.weight, up.bias, resolve(activation))
    assert y[3].isnan().all()
    assert y[:3].isfinite().all()


@torch.no_grad()
def test_onednn_is_used_where_it_may_be(monkeypatch):
    calls = []
    real = dense._POINTWISE
    monkeypatch.setattr(dense, "_POINTWISE", lambda *a: (calls.append(a[3]), real(*a))[1])
    up, x = nn.Linear(48, 96), torch.randn(40, 48)
    dense.linear(x, up.weight, up.bias, resolve("gelu"))
    dense.linear(x, up.weight, up.bias, resolve("relu"))
    assert calls == ["gelu", "none"]
    dense.linear(x[:3], up.weight, up.bias)  # few rows
    dense.linear(x.double(), up.weight.double(), None)
    with torch.enable_grad():
        assert dense.linear(x, up.weight, up.bias).requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert dense.linear(x, up.weight, up.bias).dtype == torch.bfloat16
    assert len(calls) == 2


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu", "relu2"])
def test_the_activation_overwrites_only_what_is_its_own(activation, monkeypatch):
    """In place or not, the same bits; x stays as it is, and so do gradients."""
    monkeypatch.setattr(dense, "_POINTWISE", None)
    up, x, f = nn.Linear(48, 96), torch.randn(5, 48), resolve(activation)
    kept = x.clone()
    wanted = f(up(x))
    with torch.no_grad():
        assert torch.equal(dense.linear(x, up.weight, up.bias, f), wanted)
    assert torch.equal(x, kept)
    grads = [
        torch.autograd.grad(y.sum(), up.weight)[0]
        for y in (wanted, dense.linear(x, up.weight, up.bias, f))
    ]
    assert torch.equal(*grads)


def test_where_onednn_is_the_faster_one(monkeypatch):
    monkeypatch.undo()
    sizes = [(rows, weights) for rows in (1, 8, 16, 512) for weights in (2**18, 2**20, 2**22)]
    faster = {size for size in sizes if dense._onednn_is_faster(*size)}
    assert faster == {(8, 2**22)} | {(rows, w) for rows in (16, 512) for w in (2**20, 2**22)}
