"""Layers with a root-mean-square norm before the last map: the few-token kernel, the engine."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from drawn import ACTIVATIONS, bits, drawn, kernel, long, reference, shapes, short
from reluctant.activations import resolve
from reluctant.engine import Engine
from reluctant.errors import ReluctantError
from reluctant.kernels import few
from reluctant.kernels.codes import RELU2

EPS = 1e-2  # of a size with many a mean, and nothing is blown up by more than ten
FORMS = st.sampled_from([(0, 0), (1, 0), (0, 1), (1, 1)])


def variant(shape, gated, brief, hostile=False):
    """layer, factors, norm, x of a drawn layer; bfloat16 if brief."""
    seed, d, d_ff, tokens, shift, _ = shape
    *layer, x = drawn(seed, d, d_ff, tokens, shift=shift, hostile=hostile)
    factors = drawn(seed + 1, d, d_ff, 1, shift=0.2, hostile=hostile)[:2] if gated else None
    norm = np.random.default_rng(seed).standard_normal(d_ff).astype(np.float32)
    if not brief:
        return layer, factors, norm, x
    return [short(a) for a in layer], factors and [short(a) for a in factors], short(norm), short(x)


def normalised(h, norm):
    with np.errstate(all="ignore"):
        scale = 1 / np.sqrt((h * h).mean(axis=1, keepdims=True, dtype=h.dtype) + h.dtype.type(EPS))
        return norm * (h * scale)


@given(shapes, st.sampled_from(ACTIVATIONS), FORMS)
@settings(max_examples=150, deadline=None)
def test_skipping_changes_no_bit(shape, kind, form):
    layer, factors, norm, x = variant(shape, *form, hostile=shape[-1])
    code, threshold = kind
    runs = [
        kernel(threads, layer, x, code=code, threshold=threshold, everything=everything,
               in_integers=in_integers, factors=factors, norm=norm, eps=EPS)
        for threads in (1, 2, 3)
        for everything in (False, True)
        for in_integers in (False, True)
    ]  # fmt: skip
    assert {status for status, _, _ in runs} == {few.DONE}
    assert len({bits(out) for _, out, _ in runs}) == 1


@given(shapes, st.sampled_from(ACTIVATIONS), FORMS)
@settings(max_examples=150, deadline=None)
def test_against_float64(shape, kind, form):
    layer, factors, norm, x = variant(shape, *form)
    code, threshold = kind
    wide = long if form[1] else (lambda a: a.astype(np.float64))
    keys, bias, values, value_bias = (wide(a) for a in layer)
    z = wide(x) @ keys.T + bias
    if not (np.abs(z - threshold).min() > 1e-5 or threshold in (0.0, -3.0)):
        return  # where f jumps, a neuron within rounding of it may fall on either side
    h = reference(code, threshold, z)
    if factors is not None:
        h = h * (wide(x) @ wide(factors[0]).T + wide(factors[1]))
    h = normalised(h, wide(norm))
    expected = h @ values + value_bias
    _, out, _ = kernel(1, layer, x, code=code, threshold=threshold, factors=factors, norm=norm,
                       eps=EPS)  # fmt: skip
    size = max(1, np.abs(h[:, :, None] * values).sum(axis=1).max())
    slack = 4e-5 * size + (2**-8 * np.abs(expected) if form[1] else 0)
    assert (np.abs(wide(out) - expected) <= slack).all()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e7, 1e10, 1e12, 1e25])
def test_what_is_not_finite_shows_as_in_the_dense_way(gated, bad):
    """And squares, or their sum alone, that overflow: the norm then makes zeros of everything."""
    layer, factors, norm, x = variant((5, 64, 256, 3, -1.5, False), gated, 0)
    x[1, 7] = bad
    keys, bias, values, value_bias = layer
    with np.errstate(all="ignore"):
        h = reference(RELU2, 0.0, x @ keys.T + bias)
        h = h * (x @ factors[0].T + factors[1]) if gated else h
        expected = normalised(h, norm) @ values + value_bias
    _, out, _ = kernel(2, layer, x, code=RELU2, factors=factors, norm=norm, eps=EPS)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_the_dense_ways(bad):
    """It makes NaN of a zero, and no list has the zeros."""
    layer, factors, norm, x = variant((5, 64, 1024, 2, -2.0, False), 1, 0)
    norm[1001] = bad
    status, out, totals = kernel(2, layer, x, factors=factors, norm=norm, eps=EPS)
    assert status == few.DENSE
    assert (out == 7).all()
    assert totals.tolist() == [0, 0]


class Normed(nn.Module):
    """BitNet's layer."""

    def __init__(self, d, d_ff, eps=1e-6, shift=-1.0):
        super().__init__()
        self.gate, self.up = (nn.Linear(d, d_ff) for _ in range(2))
        self.norm, self.down = nn.RMSNorm(d_ff, eps=eps), nn.Linear(d_ff, d)
        with torch.no_grad():
            self.gate.bias.add_(shift)
            self.norm.weight.normal_()

    def forward(self, x):
        return self.down(self.norm(self.gate(x).relu().square() * self.up(x)))

    def engine(self, way="few"):
        parts = self.up, self.down, resolve("relu2")
        return Engine(*parts, gate=self.gate, norm=self.norm, way=way)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 20])
def test_the_error_is_no_larger_than_torchs(dtype, tokens):
    ours, eagers = [], []
    for seed in range(12):
        torch.manual_seed(seed)
        layer, x = Normed(256, 1024).to(dtype).requires_grad_(False), torch.randn(tokens, 256)
        x, wide, engine = x.to(dtype), copy.deepcopy(layer).double(), layer.engine()
        expected = wide(x.double())
        for errors, y in ((ours, engine(x)), (eagers, layer(x))):
            errors.append((y.double() - expected).square().mean().item())
        assert engine.calls == {"few": 1, "many": 0, "dense": 0, "training": 0}
    assert np.sqrt(np.mean(ours)) <= 1.5 * np.sqrt(np.mean(eagers))


@pytest.mark.parametrize("way", ["auto", "few", "many", "dense"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_way_computes_the_layer(way, dtype):
    torch.manual_seed(0)
    layer = Normed(64, 256).to(dtype).requires_grad_(False)
    engine = layer.engine(way)
    for tokens in (0, 1, 40):
        x = torch.randn(2, tokens, 64).to(dtype)
        loose = 0.02 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(engine(x), layer(x), rtol=loose, atol=loose)


def test_a_changed_norm_is_seen_at_once():
    torch.manual_seed(0)
    layer, x = Normed(64, 256).requires_grad_(False), torch.randn(2, 64)
    engine = layer.engine()

    def change_by_numpy():
        layer.norm.weight.numpy()[:] *= 3

    def replace():
        layer.norm.weight = nn.Parameter(torch.randn(256), requires_grad=False)

    def change_data():
        layer.norm.weight.data = torch.randn(256)

    changes = [
        lambda: layer.norm.weight.mul_(-2),
        *(change_by_numpy, replace, change_data),
        lambda: setattr(layer.norm, "eps", 0.5),
    ]
    for change in changes:
        before = engine(x)
        torch.testing.assert_close(before, layer(x))
        change()
        torch.testing.assert_close(engine(x), layer(x))
        assert not torch.allclose(engine(x), before)
    assert engine.calls == {"few": 13, "many": 0, "dense": 2, "training": 0}


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
@torch.no_grad()
def test_what_no_sparse_way_serves_is_dense():
    """Weights and an eps that make NaN of a zero, weights in another dtype or shape."""
    torch.manual_seed(0)
    layer, x = Normed(64, 256).requires_grad_(False), torch.randn(2, 64)
    quiet = layer.gate(x).amax(0).argmin()  # a neuron that is not active
    changes = [
        lambda norm: norm.weight[quiet].fill_(torch.nan),
        lambda norm: setattr(norm, "eps", 0.0),
        lambda norm: setattr(norm, "weight", nn.Parameter(torch.tensor([2.0]))),
        lambda norm: setattr(norm, "weight", nn.Parameter(torch.randn(512)[::2])),
        lambda norm: setattr(norm.weight, "data", norm.weight.data[:1].expand(256)),
        lambda norm: norm.double(),
    ]
    for change in changes:
        changed = copy.deepcopy(layer)
        engine = changed.engine()
        engine(x)
        change(changed.norm)
        given = torch.cat([x, torch.zeros_like(x)])
        try:
            expected = changed(given)
        except RuntimeError:
            with pytest.raises(RuntimeError):
                engine(given)
        else:
            y = engine(given)
            assert y.isnan().any() == expected.isnan().any()
            torch.testing.assert_close(y, expected, equal_nan=True)
            assert engine.calls["dense"] == 1


@torch.no_grad()
def test_an_eps_that_float32_does_not_hold_is_the_dense_ways():
    """It makes NaN of a token that has no active neuron."""
    layer = Normed(64, 256, eps=1e-50, shift=-9.0).requires_grad_(False)
    engine, x = layer.engine(), torch.zeros(1, 64)
    torch.testing.assert_close(engine(x), layer(x), equal_nan=True)
    assert engine.calls == {"few": 0, "many": 0, "dense": 1, "training": 0}


class Fixed(nn.RMSNorm):
    """Goes by a number of its own, whatever its attribute says."""

    def forward(self, h):
        return nn.functional.rms_norm(h, self.normalized_shape, self.weight, 1e-3)


@torch.no_grad()
def test_an_eps_that_was_not_there_at_first_is_the_norms_own_affair():
    torch.manual_seed(0)
    layer, x = Normed(64, 256).requires_grad_(False), torch.randn(2, 64)
    layer.norm = Fixed(256, eps=1e-3)
    engine = layer.engine()
    for eps, calls in ((1e-3, 0), (10.0, 1), (1e-3, 1)):
        layer.norm.eps = eps
        for each in (engine, copy.deepcopy(engine)):
            torch.testing.assert_close(each(x), layer(x))
            assert each.calls["dense"] == calls


@pytest.mark.parametrize("way", ["few", "many", "auto"])
def test_an_ungated_layer(way):
    torch.manual_seed(0)
    up, norm, down = nn.Linear(64, 256), nn.RMSNorm(256, eps=1e-6), nn.Linear(256, 64)
    layer = nn.Sequential(up, nn.ReLU(), norm, down).requires_grad_(False)
    engine = Engine(up, down, resolve("relu"), norm=norm, way=way)
    for x in (torch.randn(3, 64), torch.randn(40, 64)):
        torch.testing.assert_close(engine(x), layer(x))


def test_gradients_are_those_of_torch():
    torch.manual_seed(0)
    layer = Normed(64, 256)
    twin = copy.deepcopy(layer)
    engine, x = layer.engine("auto"), torch.randn(3, 64)
    for y, parameters in ((engine(x), layer.parameters()), (twin(x), twin.parameters())):
        y.square().sum().backward()
        assert all(p.grad is not None for p in parameters)
    for a, b in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    layer.requires_grad_(False)
    layer.norm.weight.requires_grad_()  # the norm's alone
    layer.norm.weight.grad = None
    engine(x).square().sum().backward()
    torch.testing.assert_close(layer.norm.weight.grad, twin.norm.weight.grad)


def test_compiles_into_one_graph():
    torch.manual_seed(0)
    layer, x = Normed(64, 256), torch.randn(3, 64)
    compiled = torch.compile(layer.engine(), backend="aot_eager", fullgraph=True)
    try:
        torch.testing.assert_close(compiled(x), layer(x))
        with torch.compiler.set_stance("fail_on_recompile"):
            torch.testing.assert_close(compiled(x), layer(x))
    finally:
        torch.compiler.reset()


@pytest.mark.parametrize(
    "norm", [nn.RMSNorm(255, eps=1e-6), nn.LayerNorm(256), nn.RMSNorm(256), nn.ReLU()]
)
def test_what_is_no_norm_of_the_neurons_is_refused(norm):
    layer = Normed(64, 256)
    layer.norm = norm
    with pytest.raises(ReluctantError, match="expected a norm with an eps"):
        layer.engine()
