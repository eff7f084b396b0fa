"""The screened kernel: the same bits whatever the screen rules out, as true as dense."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arithmetic import layer_of
from drawn import ACTIVATIONS, bits, drawn, reference
from reluctant import ways
from reluctant.kernels import few, integer, many, screened
from reluctant.kernels.codes import HARDSWISH, RELU
from reluctant.kernels.team import ALONE, team_of
from reluctant.sketch import Sketch
from reluctant.ways import Limits
from test_engine import CHANGES, SERVED, Layer, close

shapes = st.tuples(
    st.integers(0, 2**31),
    st.sampled_from([1, 2, 17, 64, 130, 256, 300, 520]),
    st.sampled_from([1, 3, 63, 64, 65, 200, 1024, 1030]),
    st.sampled_from([1, 5, 6, 17, 64, 259, 300]),
    st.sampled_from([-2.0, -1.0, 0.0, 1.0]),
    st.booleans(),
)


def kernel(
    threads,
    layer,
    x,
    *,
    code=RELU,
    threshold=0.0,
    limit=2.0,
    everything=False,
    turn=0,
    factors=None,
):
    """One call: status, output, (active, candidates). factors: rows and bias of a gated layer."""
    keys, bias, values, value_bias = layer
    sketch = Sketch.of(torch.from_numpy(keys))
    arrays = layer_of(sketch, keys, bias, values, value_bias)
    norm, gated = sketch.max_norm, factors is not None
    if gated:
        arrays = arrays._replace(factors=factors[0], factor_bias=factors[1])
        norm = max(norm, float(np.linalg.norm(factors[0].astype(np.float64), axis=1).max()))
    out, totals = np.full_like(x, 7), np.zeros(2, np.int64)
    numbers = (norm, sketch.slack, threshold, code, gated, limit, everything, turn)
    status = screened.run(x, *arrays, *numbers, out, totals, team_of(threads))
    return status, out, totals


def check_bit_for_bit(shape, kind, gated):
    seed, d, d_ff, tokens, shift, hostile = shape
    *layer, x = drawn(seed, d, d_ff, tokens, shift=shift, hostile=hostile)
    factors = drawn(seed + 1, d, d_ff, 1, hostile=hostile)[:2] if gated else None
    rest = {"code": kind[0], "threshold": kind[1], "turn": seed % 97, "factors": factors}
    runs = [
        kernel(threads, layer, x, everything=everything, **rest)
        for threads in (1, 2, 3)
        for everything in (False, True)
    ]
    statuses = {status for status, _, _ in runs}
    assert len({bits(out) for _, out, _ in runs}) == 1
    if statuses == {few.DENSE}:  # a factor may overflow
        assert gated
        assert hostile
        return
    assert statuses == {few.DONE}
    active, candidates = runs[0][2]
    assert active <= candidates <= d_ff * tokens
    assert runs[1][2].tolist() == [active, d_ff * tokens]
    assert len({tuple(totals) for _, _, totals in runs[::2]}) == 1


@given(shapes, st.sampled_from(ACTIVATIONS), st.booleans())
@settings(max_examples=40, deadline=None)
def test_skipping_changes_no_bit(shape, kind, gated):
    check_bit_for_bit(shape, kind, gated)


@pytest.mark.slow
@given(shapes, st.sampled_from(ACTIVATIONS), st.booleans())
@settings(max_examples=3_000, deadline=None)
def test_skipping_changes_no_bit_in_thousands_of_layers(shape, kind, gated):
    check_bit_for_bit(shape, kind, gated)


@given(shapes, st.sampled_from(ACTIVATIONS), st.booleans())
@settings(max_examples=40, deadline=None)
def test_against_float64(shape, kind, gated):
    seed, d, d_ff, tokens, shift, _ = shape
    keys, bias, values, value_bias, x = drawn(seed, d, d_ff, tokens, shift=shift)
    factors = drawn(seed + 1, d, d_ff, 1)[:2] if gated else None
    code, threshold = kind
    wide = [a.astype(np.float64) for a in (keys, bias, values, value_bias, x)]
    z = wide[4] @ wide[0].T + wide[1]
    h = reference(code, threshold, z)
    if gated:
        h *= wide[4] @ factors[0].T.astype(np.float64) + factors[1]
    # At a threshold where f jumps, a neuron within rounding of it may fall on either side.
    clear = np.abs(z - threshold).min() > 1e-5 or threshold in (0.0, -3.0)
    expected = h @ wide[2] + wide[3]
    _, out, totals = kernel(2, (keys, bias, values, value_bias), x,
                            code=code, threshold=threshold, factors=factors)  # fmt: skip
    if clear:
        assert np.abs(out - expected).max() <= 2e-5 * max(1, np.abs(expected).max())
        assert abs(totals[0] - (z > threshold).sum()) <= (np.abs(z - threshold) < 1e-5).sum()


@pytest.mark.parametrize(("code", "threshold"), ACTIVATIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows_as_in_the_dense_way(code, threshold, bad):
    keys, bias, values, value_bias, x = drawn(5, 64, 256, 20)
    x[1, 7] = bad
    with np.errstate(all="ignore"):
        h = reference(code, threshold, (x @ keys.T + bias).astype(np.float32))
        expected = h @ values + value_bias
    _, out, _ = kernel(1, (keys, bias, values, value_bias), x,
                       code=code, threshold=threshold)  # fmt: skip
    for kind in (np.isnan, np.isposinf, np.isneginf):
        assert (kind(out) == kind(expected)).all()
    assert np.isfinite(out[np.arange(20) != 1]).all()


@pytest.mark.parametrize(("code", "threshold"), ACTIVATIONS)
def test_minus_infinity_alone(code, threshold):
    """Every z is -inf: zero for all but hardswish, where torch has NaN."""
    keys, bias, values, value_bias, x = drawn(5, 64, 256, 20)
    keys[:, 7] = np.abs(keys[:, 7]) + np.float32(0.1)
    x[1, 7] = -np.inf
    _, out, _ = kernel(1, (keys, bias, values, value_bias), x, code=code, threshold=threshold)
    assert np.isnan(out[1]).all() == (code == HARDSWISH)
    if code != HARDSWISH:
        assert (out[1] == value_bias).all()


@pytest.mark.parametrize("where", [None, "x", "key", "bias"])
def test_a_factor_that_may_overflow_is_given_up(where):
    """An infinite one makes NaN of a zero."""
    keys, bias, values, value_bias, x = drawn(5, 64, 256, 20)
    rows, row_bias = drawn(6, 64, 256, 1)[:2]
    if where == "x":
        x[3] = 1e38
    elif where == "key":
        rows[5] = 1e38
    elif where == "bias":
        row_bias[5] = np.inf
    status, _, _ = kernel(2, (keys, bias, values, value_bias), x, factors=(rows, row_bias))
    assert status == (few.DONE if where is None else few.DENSE)


@pytest.mark.parametrize("where", ["x", "key", "bias"])
def test_a_factor_that_may_overflow_is_left_to_the_dense_way(where):
    layer = Layer(gated=True, shift=-3.0)
    layer.engine.way = "many"
    x = torch.randn(20, 64)
    with torch.no_grad():
        close(layer.engine(x), layer(x))
        before = layer.engine.calls["dense"]
        if where == "x":
            x[3] = 1e38
        elif where == "key":
            layer.up.weight[5] = 1e38
        else:
            layer.up.bias[5] = torch.inf
        y, expected = layer.engine(x), layer(x)
    assert torch.isnan(expected[3]).any()
    assert torch.equal(torch.isfinite(y), torch.isfinite(expected))
    assert layer.engine.calls["dense"] == before + 1


def test_the_error_is_that_of_torch():
    """Root mean square against float64, over many draws: at most 1.5 times eager's."""
    ours, eagers = [], []
    for seed in range(24):
        d, d_ff = ((64, 256), (256, 1024), (512, 2048))[seed % 3]
        keys, bias, values, value_bias, x = drawn(seed, d, d_ff, 20 + 7 * seed, shift=-1.0)
        wide = [torch.from_numpy(a).double() for a in (keys, bias, values, value_bias, x)]
        single = [a.float() for a in wide]
        expected, eager = (torch.relu(x_ @ k.T + b) @ v + vb for k, b, v, vb, x_ in (wide, single))
        _, out, _ = kernel(2, (keys, bias, values, value_bias), x)
        scale = expected.square().mean()
        ours.append(((torch.from_numpy(out) - expected).square().mean() / scale).item())
        eagers.append(((eager - expected).square().mean() / scale).item())
    assert np.sqrt(np.mean(ours)) <= 1.5 * np.sqrt(np.mean(eagers))


def test_a_crowded_call_is_given_up_at_once():
    *layer, x = drawn(2, 64, 1024, 40, shift=0.5)
    for threads in (1, 2):
        status, out, totals = kernel(threads, layer, x, limit=0.3)
        assert status == few.DENSE
        assert (out == 7).all()
        assert totals.tolist() == [0, 0]
    assert kernel(1, layer, x, limit=0.95)[0] == few.DONE


def test_the_sample_is_of_tokens_and_neurons_all_over():
    """What is crowded at the front alone is no reason to give up."""
    *layer, x = drawn(2, 64, 1024, 80, shift=-2.5)
    layer[0][:, 0] = 1.0
    x[:, 0] = 0.0
    x[: screened.SAMPLE] = 0.0
    x[: screened.SAMPLE, 0] = 50.0  # every neuron fires
    assert kernel(2, layer, x, limit=0.5)[0] == few.DONE
    *layer, x = drawn(2, 64, 2048, 80, shift=-2.5)
    layer[1][:64] = 5.0
    assert kernel(2, layer, x, limit=0.4)[0] == few.DONE


@pytest.mark.parametrize("where", ["corner", "row", "candidate"])
def test_weights_that_left_their_sketch_are_noticed(where):
    keys, bias, values, value_bias, x = drawn(3, 64, 1024, 40, shift=0.0)
    sketch = Sketch.of(torch.from_numpy(keys))
    changed, turn = keys.copy(), 0
    rows = np.arange(1024)
    if where == "corner":
        changed[5, 5] += np.float32(1e-3)
    else:
        changed *= np.float32(1.5)  # all rows, behind what is remembered of each
        changed[rows, rows % 64] = keys[rows, rows % 64]
        if where == "row":  # one of them: found when its turn comes
            changed[rows != 7] = keys[rows != 7]
            bias[7] = -50  # and never a candidate
            turn = 7
        else:
            changed[0] = keys[0]  # and behind the row whose turn it is
    rest = (sketch.max_norm, sketch.slack, 0.0, RELU, False, 2.0, False)
    for threads in (1, 2, 3):
        out, totals = np.empty_like(x), np.zeros(2, np.int64)
        arrays = layer_of(sketch, changed, bias, values, value_bias, keys)
        assert screened.run(x, *arrays, *rest, turn, out, totals, team_of(threads)) == few.STALE
        assert totals.tolist() == [0, 0]
    honest = layer_of(sketch, keys, bias, values, value_bias)
    for turn in range(len(keys)):
        assert screened.run(x, *honest, *rest, turn, out, totals, ALONE) == few.DONE


# Under the engine.


@pytest.fixture
def _always(monkeypatch):
    """Small layers are as good as large ones here; and no call may be served in another way."""
    torch.manual_seed(0)
    monkeypatch.setattr(ways, "limits", lambda *_: Limits(0, 0.99, 0.3))

    def refuse(*_):
        raise AssertionError("not screened")

    monkeypatch.setattr(many, "combine", refuse)


fast = pytest.mark.skipif(
    not integer.available(), reason="no byte products: the engine never screens"
)


@fast
@pytest.mark.usefixtures("_always")
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", SERVED)
def test_the_engine_screens(activation, gated):
    zero_below = 0.0 if activation != "hardswish" else -3.0
    layer = Layer(activation=activation, gated=gated, shift=zero_below - 1)
    with torch.no_grad():
        for shape in ((20, 64), (2, 3, 7, 64), (300, 64)):
            x = torch.randn(shape)
            close(layer.engine(x), layer(x))
            assert layer.engine(x).shape == x.shape
    assert layer.engine.calls == {"few": 0, "many": 6, "dense": 0, "training": 0}


@fast
@pytest.mark.usefixtures("_always")
@pytest.mark.parametrize("change", [c for c in CHANGES if c.__name__ != "strided_bias"])
def test_the_call_after_a_change_is_right(change):
    layer, x = Layer(), torch.randn(40, 64)
    with torch.no_grad():
        close(layer.engine(x), layer(x))
    change(layer)
    with torch.no_grad():
        torch.testing.assert_close(layer.engine(x), layer(x), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(layer.engine(x), layer(x), rtol=1e-4, atol=1e-3)


@fast
@pytest.mark.usefixtures("_always")
def test_the_thread_count_changes_no_bit():
    layer, x, before = Layer(256, 1024), torch.randn(300, 256), torch.get_num_threads()
    got = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with torch.no_grad():
                got.append(layer.engine(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got[0], got[1])
    assert torch.equal(got[0], got[2])


@fast
def test_a_pinned_gated_layer_is_screened_however_crowded():
    layer, x = Layer(gated=True, shift=2.0), torch.randn(40, 64)
    layer.engine.way = "many"
    with torch.no_grad():
        close(layer.engine(x), layer(x))
    assert layer.engine.calls["many"] == 1
