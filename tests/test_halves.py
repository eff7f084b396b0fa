"""float16 weights: served as bfloat16's are, up to where their numbers end."""

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

import reluctant
from drawn import ACTIVATIONS, bits, drawn, half, kernel, shapes
from reluctant.activations import resolve, thresholded_relu
from reluctant.engine import Engine
from reluctant.feedforward import FeedForward
from reluctant.kernels import few, halves
from reluctant.kernels.codes import HARDSWISH
from reluctant.kernels.entries import as_float, put_rounded

pytestmark = pytest.mark.skipif(not halves.HALVES, reason="no float16 here")
KINDS = [kind for kind in ACTIVATIONS if kind[0] != HARDSWISH]


@njit
def _all_read(held, out):
    for i in range(held.shape[0]):
        out[i] = as_float(held[i])


@njit
def _all_put(out, numbers):
    for j in range(numbers.shape[0]):
        put_rounded(out, 0, j, numbers[j])


def test_every_number_is_read_as_it_is():
    held = np.arange(-(2**15), 2**15).astype(np.int16)
    out = np.empty(len(held), np.float32)
    _all_read(held, out)
    wanted = torch.from_numpy(held).view(torch.float16).float().numpy()
    np.testing.assert_array_equal(out, wanted)


@given(st.lists(st.floats(width=32) | st.floats(-1e5, 1e5, width=32), min_size=1, max_size=40))
@settings(deadline=None)
def test_numbers_are_rounded_as_torch_does(numbers):
    x = np.array(numbers, np.float32)
    out = np.empty((1, len(x)), np.int16)
    _all_put(out, x)
    np.testing.assert_array_equal(out.view(np.float16)[0], torch.from_numpy(x).half().numpy())


@given(shapes, st.sampled_from(KINDS), st.booleans())
@settings(max_examples=100, deadline=None)
def test_skipping_changes_no_bit(shape, kind, gated):
    seed, d, d_ff, tokens, shift, hostile = shape
    *layer, x = drawn(seed, d, d_ff, tokens, shift=shift, hostile=hostile)
    layer = [half(np.clip(array, -6e4, 6e4)) for array in layer]
    with np.errstate(over="ignore"):
        x = half(x)
    factors = tuple(map(half, drawn(seed + 1, d, d_ff, 1, shift=0.2)[:2])) if gated else None
    code, threshold = kind
    runs = [
        kernel(threads, layer, x, code=code, threshold=threshold, everything=everything,
               in_integers=in_integers, factors=factors)
        for threads in (1, 2)
        for everything in (False, True)
        for in_integers in (False, True)
    ]  # fmt: skip
    assert len({status for status, _, _ in runs}) == 1
    assert len({bits(out) for _, out, _ in runs}) == 1


def overflowing(name):
    """A layer of which some neurons overflow in float16, and inputs that find them or do not."""
    torch.manual_seed(0)
    layer = FeedForward(64, 256, name).requires_grad_(False)
    (layer.gate or layer.up).bias -= 2.0
    layer.up.weight[5] *= 60000
    layer.up.bias[9] = 60000.0
    layer.half()
    x = torch.randn(40, 64).half()
    return layer, torch.cat([x, 3 * x, x / 1000, 100 * x])


@pytest.mark.parametrize("name", ["relu", "relu2", "relu6", "reglu", "hardswish"])
def test_what_overflows_does_as_in_the_dense_way(name):
    layer, inputs = overflowing(name)
    engine = Engine(layer.up, layer.down, layer.activation, gate=layer.gate, way="few")
    seen = set()
    for x in inputs.split(1):
        ours, wanted = engine(x), layer(x)
        size = float(wanted.nan_to_num(posinf=0, neginf=0).abs().max())
        torch.testing.assert_close(ours, wanted, equal_nan=True, rtol=1e-2, atol=1e-2 * size)
        seen.add(bool(wanted.isfinite().all()))
    assert (False in seen) == (name != "relu6")


def test_a_square_that_overflows_is_left_to_the_dense_way():
    layer = FeedForward(64, 256, "relu2").requires_grad_(False)
    layer.up.bias[:] = -3.0
    layer.half()
    engine = Engine(layer.up, layer.down, layer.activation, way="few")
    x = torch.randn(1, 64).half()
    torch.testing.assert_close(engine(x), layer(x), rtol=1e-2, atol=1e-2)
    assert engine.calls == {"few": 1, "many": 0, "dense": 0, "training": 0}
    layer.up.bias[7] = 300.0
    torch.testing.assert_close(engine(x), layer(x), equal_nan=True)
    assert engine.calls == {"few": 1, "many": 0, "dense": 1, "training": 0}
    assert not layer(x).isfinite().all()


def test_a_factor_that_only_its_bias_makes_overflow():
    """60,000 + 10,000, times a thousandth: infinite in the dense way, 70 in float32."""
    layer = FeedForward(64, 256, "reglu").requires_grad_(False)
    layer.gate.weight[5], layer.gate.bias[5] = 0.0, 0.001
    layer.up.weight[5], layer.up.bias[5] = 60000.0 / 64, 10000.0
    layer.half()
    engine = Engine(layer.up, layer.down, layer.activation, gate=layer.gate, way="few")
    x = torch.ones(1, 64).half()
    wanted = layer(x)
    assert not wanted.isfinite().any()
    torch.testing.assert_close(engine(x), wanted, equal_nan=True)


@pytest.mark.parametrize(("threshold", "way"), [(0.5, "few"), (0.3, "dense")])
def test_thresholds(threshold, way):
    layer = FeedForward(64, 256, dtype=torch.float16).requires_grad_(False)
    engine = Engine(layer.up, layer.down, thresholded_relu(threshold), way="few")
    engine(torch.randn(1, 64).half())
    assert engine.calls[way] == 1


def test_hardswish_is_dense():
    """hardswish(-inf) is NaN."""
    layer = FeedForward(64, 256, dtype=torch.float16).requires_grad_(False)
    engine = Engine(layer.up, layer.down, resolve("hardswish"), way="few")
    engine(torch.randn(1, 64).half())
    assert engine.calls["dense"] == 1


def test_a_model_in_half_is_served_and_says_so():
    model = torch.nn.Sequential(
        torch.nn.Linear(512, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 512)
    ).requires_grad_(False)
    model[0].bias -= 1.5
    model.half()
    twin = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (entry,) = reluctant.optimize(model, way="few").swapped
    x = torch.randn(3, 512).half()
    torch.testing.assert_close(model(x), twin(x), rtol=1e-2, atol=1e-2)
    assert entry.gain == "sparse"
    assert entry.engine.calls["few"] == 1


def test_limits_of_the_dtype_do_not_touch_others():
    """A float32 layer with numbers beyond float16's is served."""
    *layer, x = drawn(0, 64, 256, 2)
    layer[0][3] *= 1e6
    status, _, _ = kernel(1, layer, x)
    assert status == few.DONE
