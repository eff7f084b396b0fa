"""The few-token kernel on gated layers and on bfloat16 weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drawn import ACTIVATIONS, bits, drawn, kernel, long, reference, shapes, short
from reluctant.activations import resolve, thresholded_relu
from reluctant.engine import Engine
from reluctant.feedforward import FeedForward
from reluctant.kernels import few
from reluctant.kernels.codes import RELU
from reluctant.kernels.sums import take_tokens
from reluctant.sketch import SERVED, Sketch
from reluctant.surgery.gain import gain


def variant(shape, gated, brief, hostile=False):
    """layer, factors, x of a drawn layer; factors None if not gated; bfloat16 if brief."""
    seed, d, d_ff, tokens, shift, _ = shape
    *layer, x = drawn(seed, d, d_ff, tokens, shift=shift, hostile=hostile)
    factors = drawn(seed + 1, d, d_ff, 1, shift=0.2, hostile=hostile)[:2] if gated else None
    if not brief:
        return layer, factors, x
    return [short(a) for a in layer], factors and tuple(short(a) for a in factors), short(x)


@given(shapes, st.sampled_from(ACTIVATIONS), st.sampled_from([(1, 0), (0, 1), (1, 1)]))
@settings(max_examples=200, deadline=None)
def test_skipping_changes_no_bit(shape, kind, form):
    layer, factors, x = variant(shape, *form, hostile=shape[-1])
    code, threshold = kind
    runs = [
        kernel(threads, layer, x, code=code, threshold=threshold, everything=everything,
               turn=shape[0] % 97, in_integers=in_integers, factors=factors)
        for threads in (1, 2, 3)
        for everything in (False, True)
        for in_integers in (False, True)
    ]  # fmt: skip
    assert {status for status, _, _ in runs} == {few.DONE}
    assert len({bits(out) for _, out, _ in runs}) == 1
    active, candidates = runs[0][2]
    assert active <= candidates <= runs[2][2][1] == shape[2] * shape[3]


@given(shapes, st.sampled_from(ACTIVATIONS), st.sampled_from([(1, 0), (0, 1), (1, 1)]))
@settings(max_examples=150, deadline=None)
def test_against_float64(shape, kind, form):
    layer, factors, x = variant(shape, *form)
    code, threshold = kind
    wide = long if form[1] else (lambda a: a.astype(np.float64))
    keys, bias, values, value_bias = (wide(a) for a in layer)
    z = wide(x) @ keys.T + bias
    if not (np.abs(z - threshold).min() > 1e-5 or threshold in (0.0, -3.0)):
        return  # where f jumps, a neuron within rounding of it may fall on either side
    h = reference(code, threshold, z)
    if factors is not None:
        h = h * (wide(x) @ wide(factors[0]).T + wide(factors[1]))
    expected = h @ values + value_bias
    _, out, totals = kernel(1, layer, x, code=code, threshold=threshold, factors=factors)
    size = max(1, np.abs(h[:, :, None] * values).sum(axis=1).max())
    slack = 2e-5 * size + (2**-8 * np.abs(expected) if form[1] else 0)
    assert (np.abs(wide(out) - expected) <= slack).all()
    assert abs(totals[0] - (z > threshold).sum()) <= (np.abs(z - threshold) < 1e-5).sum()


def test_a_factor_that_overflows_makes_nan_of_a_zero():
    """relu(g) = 0 times infinity, as in the dense way: from a huge x, key or bias."""
    for where in ("x", "key", "bias"):
        layer, factors, x = variant((3, 64, 256, 2, -3.0, False), 1, 0)
        up, bias = factors
        if where == "x":
            x[1] *= np.float32(1e38)
        elif where == "key":
            up[5], x[1] = 1e38, 1.0
        else:
            bias[5] = np.inf
        with np.errstate(all="ignore"):
            z = x @ layer[0].T + layer[1]
            h = np.maximum(z, 0) * (x @ up.T + bias)
            expected = h @ layer[2] + layer[3]
        _, out, _ = kernel(2, layer, x, factors=factors)
        assert np.isnan(expected[1]).all(), where
        assert (np.isnan(out) == np.isnan(expected)).all(), where


@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
@settings(deadline=None)
def test_outputs_round_to_bfloat16_as_torch_does(numbers):
    x = np.array(numbers, np.float32)
    wide = np.array([x, x], np.float32).view(np.uint32) >> 16
    rounded = torch.from_numpy(x).bfloat16()
    given_back = torch.empty(len(x), dtype=torch.bfloat16)
    from reluctant.kernels.entries import put_rounded  # noqa: PLC0415

    out = given_back.view(torch.uint16).numpy()[None]
    _put_all(put_rounded)(out, x)
    assert torch.equal(given_back.isnan(), rounded.isnan())
    assert torch.equal(given_back.nan_to_num(), rounded.nan_to_num())
    tokens = take_tokens((wide[:1]).astype(np.uint16), 64, 1.0, False)[0]
    short_x = torch.from_numpy(wide[:1].astype(np.uint16)).view(torch.bfloat16).float().numpy()
    assert np.array_equal(tokens[:, : len(x)], short_x, equal_nan=True)


_compiled = {}


def _put_all(put):
    from numba import njit  # noqa: PLC0415

    def put_all(out, values):
        for j in range(values.shape[0]):
            put(out, 0, j, values[j])

    return _compiled.setdefault("put", njit(put_all))


@pytest.mark.parametrize("dtype", SERVED)
@pytest.mark.parametrize("name", ["relu", "reglu"])
@pytest.mark.parametrize("tokens", [1, 8])
def test_the_error_is_no_larger_than_torchs(dtype, name, tokens):
    ours, eagers = [], []
    for seed in range(12):
        torch.manual_seed(seed)
        layer = FeedForward(256, 1024, name).requires_grad_(False)
        (layer.gate or layer.up).bias.sub_(1.0)
        layer, x = layer.to(dtype), torch.randn(tokens, 256).to(dtype)
        engine = Engine(layer.up, layer.down, layer.activation, gate=layer.gate, way="few")
        wide = FeedForward(256, 1024, name, dtype=torch.float64)
        wide.load_state_dict(layer.state_dict())
        with torch.no_grad():
            expected = wide(x.double())
            for errors, y in ((ours, engine(x)), (eagers, layer(x))):
                errors.append((y.double() - expected).square().mean().item())
        assert engine.calls == {"few": 1, "many": 0, "dense": 0, "training": 0}
    assert np.sqrt(np.mean(ours)) <= 1.5 * np.sqrt(np.mean(eagers))


def test_a_threshold_that_bfloat16_does_not_have_is_dense():
    """There a z below the threshold may be rounded to above it."""
    layer = FeedForward(64, 256, dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(1, 64, dtype=torch.bfloat16)
    for threshold, way in ((0.5, "few"), (0.3, "dense")):
        engine = Engine(layer.up, layer.down, thresholded_relu(threshold), way="few")
        engine(x)
        assert engine.calls[way] == 1


def test_the_gates_weights_are_watched():
    layer = FeedForward(64, 256, "reglu").requires_grad_(False)
    engine = Engine(layer.up, layer.down, layer.activation, gate=layer.gate, way="few")
    x = torch.randn(2, 64)
    for part in (layer.gate, layer.up, layer.down):
        torch.testing.assert_close(engine(x), layer(x))
        part.weight.mul_(-1)
        torch.testing.assert_close(engine(x), layer(x))
        part.weight.data = torch.randn_like(part.weight) * 0.2
        torch.testing.assert_close(engine(x), layer(x))
        part.bias.data = torch.randn_like(part.bias) * 0.2
        torch.testing.assert_close(engine(x), layer(x))
    assert engine.calls == {"few": 12, "many": 0, "dense": 0, "training": 0}


def test_weights_born_in_inference_mode_go_the_dense_way():
    """Nobody counts what is written to them, and of a single weight no kernel sees it at once."""
    with torch.inference_mode():
        layer, x = FeedForward(64, 256), torch.randn(2, 64)
        engine = Engine(layer.up, layer.down, resolve("relu"), way="few")
        torch.testing.assert_close(engine(x), layer(x))
        layer.up.weight[200, 3] += 9
        layer.down.weight[3, 200] += 9
        torch.testing.assert_close(engine(x), layer(x))
    with torch.no_grad():
        torch.testing.assert_close(engine(x), layer(x))
    assert engine.calls == {"few": 0, "many": 0, "dense": 3, "training": 0}
    assert "inference mode" in gain(engine)


def test_a_crowded_gated_call_is_dense():
    layer, factors, x = variant((3, 64, 1024, 2, 2.0, False), 1, 0)
    status, _, _ = kernel(1, layer, x, factors=factors, limit=0.5, code=RELU)
    assert status == few.DENSE


@given(shapes)
@settings(max_examples=40, deadline=None)
def test_the_sketch_of_bfloat16_is_that_of_the_same_numbers(shape):
    """So what the certificate's tests show of float32 rows holds of them, too."""
    keys = drawn(*shape[:4])[0]
    narrow = torch.from_numpy(keys).bfloat16()
    one, other = Sketch.of(narrow), Sketch.of(narrow.float())
    for name in ("q", "scale", "radius", "own_norm", "row_sum"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert (one.max_norm, one.slack) == (other.max_norm, other.slack)
