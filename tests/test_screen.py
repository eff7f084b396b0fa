"""The screen of many tokens: exact products; what it rules out fires in no arithmetic."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from arithmetic import evaluations, exact, layer_of
from reluctant.kernels import few, integer, screen, words
from reluctant.kernels.codes import RELU
from reluctant.sketch import UNIT, Sketch, radius_of, radius_terms
from test_sketch import fires, layers, norms_of, sketch_of, stair, without

_pass = words.word_pass(1, 8, from_memory=True)
if not integer.available():
    _pass = words.plain_pass(1)


@njit(error_model="numpy")
def one_word_pass(q, digits, sums):
    _pass(q, 0, digits, 0, sums, 0, 0)


@njit(error_model="numpy")
def bits_of(sums, m, terms, tokens, threshold):
    return screen.kept(sums, m, terms, tokens.step[m], tokens.norm[m], tokens.loss[m], threshold)


def in_integers(x, padded_d, max_norm):
    tokens = screen.Integers(*screen.room_for_integers(len(x), padded_d))
    tokens.digits[:] = 0
    for m in range(len(x)):
        screen.to_integers(m, x[m], max_norm, tokens)
    return tokens


def number_of(digits):
    """The integers X with x ~ step X, in the columns' order, whatever the pass takes."""
    if screen.BYTES:
        return digits.astype(np.int64) - 128
    quads = digits.astype(np.int64).reshape(*digits.shape[:-1], -1, 4)
    return quads[..., list(words.ORDER)].reshape(digits.shape)  # which undoes itself


def kept_by(sketch, keys, bias, x, threshold=0.0, slack=None, factor_bias=None):
    """Which neurons the screen keeps: (tokens, d_ff) booleans."""
    slack = sketch.slack if slack is None else slack
    layer, gated = layer_of(sketch, keys, bias), factor_bias is not None
    layer = layer._replace(factor_bias=factor_bias) if gated else layer
    rule = few.Rule(threshold, RELU, slack, gated, True, 2.0, False, 0)
    tokens = in_integers(x, sketch.rows.shape[1], sketch.max_norm)
    start, terms = np.empty(64, np.int32), np.empty((4, 64))
    sums = np.empty((len(tokens.digits), 64), np.int32)
    kept = np.zeros((len(x), len(sketch.rows)), bool)
    for g in range(len(sketch.q)):
        present = int(screen.group_terms(g, layer, rule, start, terms))
        screen.products(g, 0, len(x), tokens.digits, layer.q, start, sums)
        for m in range(len(x)):
            bits = bits_of(sums, m, terms, tokens, threshold)
            kept[m, 64 * g : 64 * g + 64] = [(int(bits) & present) >> r & 1 for r in range(64)]
    assert not kept[:, len(keys) :].any()
    return kept[:, : len(keys)]


def wrongly_ruled_out(sketch, keys, bias, x, threshold=0.0, slack=None):
    kept = kept_by(sketch, keys, bias, x, threshold, slack)
    return [
        (m, i)
        for m, i in zip(*np.nonzero(~kept), strict=True)
        if fires(keys[i], x[m], bias[i], threshold)
    ]


def check_never(layer, threshold):
    keys, bias, x = layer
    assert not wrongly_ruled_out(sketch_of(keys), keys, bias, x, float(np.float32(threshold)))


@given(layers(), st.sampled_from([0.0, 0.0, 1.0, -3.0, 0.1]))
@settings(max_examples=60, deadline=None)
def test_what_is_ruled_out_never_fires(layer, threshold):
    check_never(layer, threshold)


@pytest.mark.slow
@given(layers(), st.sampled_from([0.0, 0.0, 1.0, -3.0, 0.1]))
@settings(max_examples=10_000, deadline=None)
def test_what_is_ruled_out_never_fires_in_ten_thousand_layers(layer, threshold):
    check_never(layer, threshold)


def test_it_rules_out_what_it_should():
    """Without this, a bound that is always infinite would pass every test above."""
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((500, 64)).astype(np.float32) / 8
    x = rng.standard_normal((40, 64)).astype(np.float32)
    bias = np.full(500, -1.0, np.float32)
    kept = kept_by(sketch_of(keys), keys, bias, x)
    active = (x.astype(np.float64) @ keys.T.astype(np.float64) + bias) > 0
    assert (kept >= active).all()
    assert kept.mean() < active.mean() + 0.03


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("d", [64, 1000, 4096])
def test_large_layers_against_float64(d, flush):
    rng = np.random.default_rng(d)
    keys = (rng.standard_normal((256, d)) / np.sqrt(d)).astype(np.float32)
    x = rng.standard_normal((16, d)).astype(np.float32)
    z = x.astype(np.float64) @ keys.T.astype(np.float64)
    bias = -z[rng.integers(16, size=256), np.arange(256)]  # one token of 16 at z = 0 or about
    bias = (bias + rng.normal(0, 1e-6, 256)).astype(np.float32)
    torch.set_flush_denormal(flush)
    try:
        kept = kept_by(sketch_of(keys), keys, bias, x)
    finally:
        torch.set_flush_denormal(False)
    assert (z + bias.astype(np.float64) <= 0)[~kept].all()
    assert not kept.all()


# Products and integers.

LARGEST = 127 if screen.BYTES else 32767
bytes_only = pytest.mark.skipif(not screen.BYTES, reason="x is taken in words here")


def drawn_digits(rng, tokens, d, extreme):
    """Integers as the pass takes them: anything, or the ends of their range."""
    low, high = (0, 255) if screen.BYTES else (-words.top_of(d), words.top_of(d))
    digits = rng.integers(low, high + 1, (tokens, d))
    if extreme:
        digits = (
            rng.choice([low, high], (tokens, d)) if extreme == 1 else np.full((tokens, d), high)
        )
    return digits.astype(np.uint8 if screen.BYTES else np.int16)


@given(
    st.integers(0, 2**31), st.sampled_from([64, 128, 512, 576, 1024]), st.sampled_from([0, 1, 2])
)
@settings(max_examples=40, deadline=None)
def test_products_are_exact(seed, d, extreme):
    """Also where a saturating product would not be: at the ends of both ranges."""
    rng = np.random.default_rng(seed)
    q = rng.integers(-127, 128, (3, d // 4, 64, 4)).astype(np.int8)
    if extreme:
        q[:] = rng.choice([-127, 127], q.shape) if extreme == 1 else 127
    digits = drawn_digits(rng, 13 + 5, d, extreme)
    rows = q[1].transpose(1, 0, 2).reshape(64, d).astype(np.int64)
    start = (-screen.MIDDLE * rows.sum(1)).astype(np.int32)
    expected = number_of(digits[:13]) @ rows.T
    sums = np.full((18, 64), 7, np.int32)
    screen.products(1, 0, 13, digits, q, start, sums)
    assert (sums[:13] == expected).all()


@bytes_only
def test_wrapping_on_the_way_does_no_harm():
    """-128 sum_j q_j and what is added to it may pass 2^31 where the sum itself does not."""
    d = 65472
    q, digits = np.full((1, d // 4, 64, 4), 127, np.int8), np.full((6, d), 255, np.uint8)
    start = np.full(64, -128 * 127 * d, np.int32)
    sums = np.empty((6, 64), np.int32)
    screen.products(0, 0, 6, digits, q, start, sums)
    assert (sums == 127 * 127 * d).all()


@pytest.mark.parametrize("d", [64, 512, 576, 1024, 4096, integer.LONGEST])
@pytest.mark.parametrize("sign", [1, -1])
def test_words_stay_below_the_overflow_and_no_more_than_needed(d, sign):
    """The largest words against the largest sketch: exact; one more in each word overflows."""
    top = words.top_of(d)
    assert 127 * top * d < 2**31
    assert top == 32767 or 127 * (top + 1) * d >= 2**31
    q = np.full((1, d // 4, 64, 4), sign * 127, np.int8)
    sums = np.zeros((1, 64), np.int32)
    one_word_pass(q, np.full((1, d), top, np.int16), sums)
    assert (sums == sign * 127 * top * d).all()


def test_the_words_bits_are_those_that_int32_has_room_for():
    """512 columns keep all 16 bits (516 would), 576 do not."""
    assert [words.top_of(d) for d in (512, 516)] == [32767, 32767]
    assert words.top_of(517) < 32767


@given(st.integers(0, 2**31), st.sampled_from([1, 3, 64, 100, 1000]), st.integers(-30, 60))
@settings(max_examples=60, deadline=None)
def test_norm_and_loss_are_bounds(seed, d, exponent):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((3, d)) * 2.0**exponent).astype(np.float32)
    tokens = in_integers(x, -(-d // 64) * 64, 1.0)
    number = number_of(tokens.digits[:3])
    assert (number[:, d:] == 0).all()
    assert (abs(number) <= LARGEST).all()
    restored = tokens.step[:3, None] * number[:, :d].astype(np.float64)
    for m in range(3):
        assert tokens.norm[m] ** 2 >= float(exact(x[m], x[m], 0))
        lost = [exact([1, -1], [a, b], 0) for a, b in zip(x[m], restored[m], strict=True)]
        assert tokens.loss[m] ** 2 >= float(sum(e * e for e in lost))
        distance = np.linalg.norm(x[m] - restored[m])
        assert tokens.loss[m] <= distance * 1.0001 + 1e-12 * tokens.norm[m]
        assert tokens.loss[m] <= tokens.step[m] * np.sqrt(d) * 0.51 + 1e-12 * tokens.norm[m]


# What is never certified.


@given(st.integers(0, 3), st.sampled_from([np.nan, np.inf, -np.inf]))
@settings(deadline=None)
def test_x_that_is_not_finite_rules_out_nothing(at, bad):
    x = np.ones((2, 4), np.float32)
    x[0, at] = bad
    keys, bias = np.eye(4, dtype=np.float32), np.full(4, -5, np.float32)
    kept = kept_by(sketch_of(keys), keys, bias, x)
    assert kept.tolist() == [[True] * 4, [False] * 4]


@pytest.mark.parametrize(
    ("scale", "length"), [(2.0**-50, 1.0), (1.0, 2.0**-41), (0.0, 1.0), (1.0, 0.0), (2e38, 2e38)]
)
def test_tiny_and_huge_are_candidates(scale, length):
    keys = np.full((4, 8), scale, np.float32)
    x = np.full((1, 8), -length, np.float32) / np.float32(8)
    assert kept_by(sketch_of(keys), keys, np.full(4, -1, np.float32), x).all()


def test_products_that_overflow_and_cancel_are_candidates():
    """inf - inf is NaN in the dense way, though z itself is finite and negative."""
    keys = np.array([[2.0**64, -(2.0**64)]], np.float32)
    x = np.array([[2.0**64, 2.0**64 * (1 + 2.0**-10)]], np.float32)
    bias = np.zeros(1, np.float32)
    assert exact(keys[0], x[0], bias[0]) < -(2.0**110)
    assert any(np.isnan(z) for z in evaluations(keys[0], x[0], bias[0]))
    assert kept_by(sketch_of(keys), keys, bias, x).all()


def test_biases_that_are_no_numbers_or_huge_are_candidates():
    keys, x = np.ones((5, 8), np.float32), -np.ones((1, 8), np.float32)
    bias = np.array([0, np.nan, -np.inf, np.inf, -(2.0**126)], np.float32)
    assert kept_by(sketch_of(keys), keys, bias, x)[0].tolist() == [False, True, True, True, True]


def test_an_infinite_factor_makes_a_candidate():
    """Zero times infinity is NaN in the dense way."""
    keys, x, bias = np.ones((4, 8), np.float32), -np.ones((1, 8), np.float32), np.zeros(4)
    factor_bias = np.array([0, np.nan, -np.inf, 2.0**126], np.float32)
    kept = kept_by(sketch_of(keys), keys, bias.astype(np.float32), x, factor_bias=factor_bias)
    assert kept[0].tolist() == [False, True, True, True]


# Each part of the bound covers its share of the error, and would not if it were missing.


def test_the_residuals_term_covers_x_along_the_residual():
    """x is on its own grid: signs."""
    rng = np.random.default_rng(1)
    q = rng.integers(-100, 101, (20, 48)).astype(np.float64)
    q[:, 0] = 127
    residual = rng.choice([-0.4375, 0.4375], (20, 48))
    residual[:, 0] = 0
    keys = (q + residual).astype(np.float32)
    sketch = sketch_of(keys)
    x = np.sign(residual).astype(np.float32)
    length = np.linalg.norm(x.astype(np.float64), axis=1)
    bias = (-(q * x).sum(1) - 0.995 * length * norms_of(sketch, keys)[:, 0]).astype(np.float32)
    assert not wrongly_ruled_out(sketch, keys, bias, x)
    thinner = radius_terms(norms_of(sketch, keys), 48) * np.array([0.99, 1, 1])
    thinner = replace(sketch, radius=radius_of(thinner))
    wrong = wrongly_ruled_out(thinner, keys, bias, x)
    assert sum(m == i for m, i in wrong) > 10  # one per cent less, and most of them fire


def test_the_loss_of_integers_is_covered():
    """x along what it loses on its way to integers: without that term the neuron fires."""
    rng = np.random.default_rng(6)
    d = 48
    keys = rng.integers(-127, 128, (20, d)).astype(np.float32)
    keys[:, 0] = 127.0  # on the sketch's grid: no residual
    sketch = sketch_of(keys)
    x = np.zeros((20, d), np.float32)
    x[:, 1] = 1.0
    x[:, 2:] = np.sign(keys[:, 2:]) * np.float32(0.49 / LARGEST)
    z = (x.astype(np.float64) * keys).sum(1)
    # Above zero by a quarter of what the loss hides, and far more than rounding makes of it.
    hidden = np.abs(x[:, 2:].astype(np.float64) * keys[:, 2:]).sum(1)
    bias = (-z + hidden / 4).astype(np.float32)
    assert not wrongly_ruled_out(sketch, keys, bias, x)
    lossless = replace(sketch, own_norm=np.zeros_like(sketch.own_norm))
    assert len(wrongly_ruled_out(lossless, keys, bias, x)) > 10


def on_the_grid(d):
    """`stair` with an x that integers hold exactly, so that nothing but rounding is left."""
    key = np.full((1, d), 1.0, np.float32)
    key[0, 0] = 127.0
    x = np.full((1, d), UNIT * (1 + 2.0**-10), np.float32)
    x[0, 0] = x[0, 1] * LARGEST
    return key, x


def test_without_rounding_terms_a_key_on_the_grid_fires():
    keys, x = on_the_grid(256)
    sketch = sketch_of(keys)
    bias = np.ones(1, np.float32)
    highest = max(evaluations(keys[0], x[0], bias[0]))
    z = exact(keys[0], x[0], bias[0])
    threshold = float(np.nextafter(np.float32(highest), np.float32(0)))
    assert z < threshold < highest
    assert wrongly_ruled_out(sketch, keys, bias, x, threshold) == []
    bare = without(sketch, keys, 1, 2)
    assert wrongly_ruled_out(bare, keys, bias, x, threshold, slack=0.0) == [(0, 0)]


def test_without_the_biass_rounding_term_a_bias_added_first_fires():
    d = 256
    keys, x = np.full((1, d), 1.0, np.float32), np.full((1, d), UNIT * (1 + 2.0**-10), np.float32)
    bias, sketch = np.ones(1, np.float32), sketch_of(keys)
    threshold = float(np.float32(1 + 1.5 * d * UNIT))
    assert exact(keys[0], x[0], bias[0]) < threshold < max(evaluations(keys[0], x[0], bias[0]))
    assert wrongly_ruled_out(sketch, keys, bias, x, threshold) == []
    assert wrongly_ruled_out(sketch, keys, bias, x, threshold, slack=0.0) == [(0, 0)]


@pytest.mark.parametrize("scale", [2.0**-86, 2.0**-100])
def test_underflow_is_why_tiny_x_rules_out_nothing(scale):
    """Products on both sides of the underflow threshold, with a row that is not tiny."""
    smallest = 2.0**-126 if scale == 2.0**-86 else 2.0**-149
    share = 0.99 if smallest == 2.0**-126 else 0.49
    key = np.array([127, 64, 64, 64, 64], np.float32)
    x = (np.array([0, 1, -share, -share, -share]) * smallest / 64).astype(np.float32)
    keys, bias = key[None], np.zeros(1, np.float32)
    assert wrongly_ruled_out(sketch_of(keys), keys, bias, x[None]) == []
    assert kept_by(sketch_of(keys), keys, bias, x[None]).all()


def test_the_example_of_the_sketch_holds_here_too():
    keys, x = stair(256)
    threshold = float(np.float32(1 + 1.5 * 255 * UNIT))
    assert wrongly_ruled_out(sketch_of(keys), keys, np.zeros(1, np.float32), x, threshold) == []
    assert isinstance(sketch_of(keys), Sketch)
