"""The certificate: no neuron that it rules out fires, in no arithmetic; and each term is needed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arithmetic import candidates, evaluations, exact
from reluctant.errors import ReluctantError
from reluctant.kernels import sums, words
from reluctant.kernels.quantise import quantise
from reluctant.kernels.team import ALONE, team_of
from reluctant.sketch import UNIT, Sketch, gamma, radius_of, radius_terms


def sketch_of(keys):
    return Sketch.of(torch.from_numpy(keys))


def norms_of(sketch, keys):
    own = sketch.scale[:, None].astype(np.float64) * sketch.rows[: len(keys), : keys.shape[1]]
    wide = keys.astype(np.float64)
    return np.stack([np.linalg.norm(m, axis=1) for m in (wide - own, own, wide)], axis=1)


def without(sketch, keys, *terms):
    """The same sketch with some of the radius' three terms missing."""
    kept = radius_terms(norms_of(sketch, keys), keys.shape[1])
    kept[:, list(terms)] = 0
    return replace(sketch, radius=radius_of(kept))


def fires(key, x, bias, threshold=0.0):
    return exact(key, x, bias) > threshold or any(
        not (z <= threshold) for z in evaluations(key, x, bias)
    )


def wrongly_certified(sketch, keys, bias, x, threshold=0.0, slack=None, in_integers=False):
    """(token, neuron) pairs that are ruled out and fire all the same."""
    kept = candidates(sketch, keys, bias, x, threshold, slack, in_integers)
    return [
        (m, i)
        for m, i in zip(*np.nonzero(~kept), strict=True)
        if fires(keys[i], x[m], bias[i], threshold)
    ]


# Layers meant to break it.

EXPONENTS = (-149, -127, -126, -90, -60, -41, -40, -39, -20, -1, 0, 1, 30, 60, 100, 126)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
scaled = st.builds(
    lambda m, e: np.float32(np.ldexp(np.float32(m), e)),
    st.floats(-1.875, 1.875, width=32),
    st.sampled_from(EXPONENTS),
)
tame = st.floats(-2, 2, width=32)
hostile = st.one_of(
    scaled, tame, finite, st.sampled_from([0.0, -0.0, 127.0, -127.0, 1.0, 2.0**-149, -(2.0**-126)])
)
wild = st.one_of(hostile, st.sampled_from([np.nan, np.inf, -np.inf]))


@st.composite
def layers(draw):
    d, d_ff = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    one_scale = draw(st.booleans())
    entry = tame if one_scale else hostile
    keys = np.array(draw(st.lists(entry, min_size=d * d_ff, max_size=d * d_ff)), np.float32)
    keys = keys.reshape(d_ff, d)
    x = np.array(draw(st.lists(entry, min_size=d, max_size=d)), np.float32)[None]
    if draw(st.booleans()):  # along a residual, where Cauchy-Schwarz is an equality
        sketch = sketch_of(keys)
        own = sketch.scale[0].astype(np.float64) * sketch.rows[0, :d]
        residual = (keys[0] - own).astype(np.float32)
        x = residual[None] * np.float32(draw(st.sampled_from([1.0, -1.0, 1024.0])))
    # A bias that all but cancels the product, where the signs hang by a rounding error.
    with np.errstate(all="ignore"):
        near = -(keys.astype(np.float64) @ x[0].astype(np.float64))
        ulps = draw(st.lists(st.integers(-40, 40), min_size=d_ff, max_size=d_ff))
        bias = near * (1 + np.array(ulps) * UNIT)
        bias = np.clip(bias, -3e38, 3e38).astype(np.float32)
    if draw(st.booleans()):
        bias = np.array(draw(st.lists(entry, min_size=d_ff, max_size=d_ff)), np.float32)
    return keys, bias, x


@given(layers(), st.sampled_from([0.0, 0.0, 1.0, -3.0, 0.1]), st.booleans())
@settings(max_examples=500, deadline=None)
def test_a_certified_neuron_never_fires(layer, threshold, in_integers):
    keys, bias, x = layer
    threshold = float(np.float32(threshold))
    assert not wrongly_certified(sketch_of(keys), keys, bias, x, threshold, in_integers=in_integers)


@pytest.mark.slow
@given(layers(), st.sampled_from([0.0, 0.0, 1.0, -3.0, 0.1]), st.booleans())
@settings(max_examples=10_000, deadline=None)
def test_a_certified_neuron_never_fires_in_ten_thousand_layers(layer, threshold, in_integers):
    keys, bias, x = layer
    threshold = float(np.float32(threshold))
    assert not wrongly_certified(sketch_of(keys), keys, bias, x, threshold, in_integers=in_integers)


@pytest.mark.parametrize("in_integers", [False, True])
def test_the_certificate_certifies(in_integers):
    """Without this, a bound that is always infinite would pass every test above."""
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((512, 64)).astype(np.float32) / 8
    x = rng.standard_normal((4, 64)).astype(np.float32)
    bias = np.full(512, -1.0, np.float32)
    kept = candidates(sketch_of(keys), keys, bias, x, in_integers=in_integers)
    active = (x.astype(np.float64) @ keys.T.astype(np.float64) + bias) > 0
    assert (kept >= active).all()
    assert kept.mean() < active.mean() + 0.02


@pytest.mark.parametrize("in_integers", [False, True])
@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("d", [64, 1000, 4096])
def test_large_layers_against_float64(d, flush, in_integers):
    rng = np.random.default_rng(d)
    keys = (rng.standard_normal((256, d)) / np.sqrt(d)).astype(np.float32)
    x = rng.standard_normal((16, d)).astype(np.float32)
    z = x.astype(np.float64) @ keys.T.astype(np.float64)
    bias = -z[rng.integers(16, size=256), np.arange(256)]  # one token of 16 at z = 0 or about
    bias = (bias + rng.normal(0, 1e-6, 256)).astype(np.float32)
    torch.set_flush_denormal(flush)
    try:
        kept = candidates(sketch_of(keys), keys, bias, x, in_integers=in_integers)
    finally:
        torch.set_flush_denormal(False)
    assert (z + bias.astype(np.float64) <= 0)[~kept].all()
    assert not kept.all()


# What is never certified.


@given(st.lists(wild, min_size=4, max_size=4), st.integers(0, 3), st.booleans())
@settings(deadline=None)
def test_x_that_is_not_finite_certifies_nothing(x, at, in_integers):
    x = np.array(x, np.float32)[None]
    x[0, at] = [np.nan, np.inf, -np.inf][at % 3]
    keys = np.eye(4, dtype=np.float32)
    bias = np.full(4, -5, np.float32)
    assert candidates(sketch_of(keys), keys, bias, x, in_integers=in_integers).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    keys = np.ones((5, 7), np.float32)
    keys[3, 2] = bad
    with pytest.raises(ReluctantError, match="NaN or an infinity"):
        sketch_of(keys)


@pytest.mark.parametrize(
    "keys", [torch.ones(3), torch.ones(3, 4, dtype=torch.float64), torch.ones(3, 4, device="meta")]
)
def test_what_is_no_matrix_of_keys_is_refused(keys):
    with pytest.raises(ReluctantError, match="d_ff, d_model"):
        Sketch.of(keys)


@pytest.mark.parametrize(
    ("scale", "length"), [(2.0**-50, 1.0), (1.0, 2.0**-41), (0.0, 1.0), (1.0, 0.0), (2e38, 2e38)]
)
def test_tiny_and_huge_are_never_certified(scale, length):
    keys = np.full((4, 8), scale, np.float32)
    x = np.full((1, 8), -length, np.float32) / np.float32(8)
    assert candidates(sketch_of(keys), keys, np.full(4, -1, np.float32), x).all()


@pytest.mark.parametrize("in_integers", [False, True])
def test_products_that_overflow_and_cancel_are_candidates(in_integers):
    """inf - inf is NaN in the dense way, though z itself is finite and negative."""
    keys = np.array([[2.0**64, -(2.0**64)]], np.float32)
    x = np.array([[2.0**64, 2.0**64 * (1 + 2.0**-10)]], np.float32)
    bias = np.zeros(1, np.float32)
    assert -(2.0**126) < exact(keys[0], x[0], bias[0]) < -(2.0**110)
    assert any(np.isnan(z) for z in evaluations(keys[0], x[0], bias[0]))
    assert candidates(sketch_of(keys), keys, bias, x, in_integers=in_integers).all()


@pytest.mark.parametrize("in_integers", [False, True])
def test_a_z_that_may_be_minus_infinity_is_a_candidate(in_integers):
    """Harmless for ReLU, but hardswish(-inf) is NaN."""
    keys, x = np.array([[2.0**62]], np.float32), np.array([[-(2.0**62)]], np.float32)
    bias = np.array([-3.4e38], np.float32)
    assert any(np.isneginf(z) for z in evaluations(keys[0], x[0], bias[0]))
    assert candidates(sketch_of(keys), keys, bias, x, -3.0, in_integers=in_integers).all()


def test_a_nan_in_the_bias_is_a_candidate():
    keys, x = np.ones((4, 8), np.float32), -np.ones((1, 8), np.float32)
    bias = np.array([0, np.nan, -np.inf, np.inf], np.float32)
    assert candidates(sketch_of(keys), keys, bias, x)[0].tolist() == [False, True, True, True]


# Each part of the bound covers its share of the error, and would not if it were missing. The first
# two of the lemma's steps are shown alone: where the three terms meet, they cover for each other.


def stair(d, threshold=1.0):
    """A key on the sketch's grid and an x whose products are 1 and many just over half an ulp."""
    key = np.full(d, 1.0, np.float32)
    key[-1] = 127.0  # last, so that the sketch's own sum, from the front, is true
    x = np.full(d, UNIT * (1 + 2.0**-10), np.float32)
    x[-1] = np.float32(1 / 127)
    while np.float32(key[-1] * x[-1]) < 1:
        x[-1] = np.nextafter(x[-1], np.float32(1))
    return key[None], x[None]


def test_the_residuals_term_covers_x_along_the_residual():
    rng = np.random.default_rng(1)
    keys = rng.standard_normal((64, 32)).astype(np.float32)
    sketch = sketch_of(keys)
    own = sketch.scale[:, None].astype(np.float64) * sketch.rows[: len(keys), :32]
    x = (keys - own).astype(np.float32)
    length = np.linalg.norm(x.astype(np.float64), axis=1)
    bias = (-(own * x).sum(1) / 1 - 0.995 * length * norms_of(sketch, keys)[:, 0]).astype(
        np.float32
    )
    diagonal = np.arange(64)
    assert candidates(sketch, keys, bias, x)[diagonal, diagonal].all()
    thinner = radius_terms(norms_of(sketch, keys), 32) * np.array([0.99, 1, 1])
    thinner = replace(sketch, radius=radius_of(thinner))
    wrong = wrongly_certified(thinner, keys, bias, x)
    assert sum(m == i for m, i in wrong) > 32  # one per cent less, and most of them fire


def test_the_sketchs_rounding_term_covers_a_sequential_sum():
    keys, x = stair(256)
    sketch = sketch_of(keys)
    q = sketch.rows[:, :256].astype(np.float32)
    sums = [float(z) for z in evaluations(q[0], x[0], np.float32(0))]
    error = max(abs(s - float(exact(q[0], x[0], 0))) for s in sums) * float(sketch.scale[0])
    _, rounding, _ = radius_terms(norms_of(sketch, keys), 256)[0]
    length = np.linalg.norm(x.astype(np.float64))
    assert 0.8 * rounding * length < error <= rounding * length


def test_the_keys_rounding_term_covers_a_sequential_sum():
    keys, x = stair(256)
    sums = [float(z) for z in evaluations(keys[0], x[0], np.float32(0))]
    error = max(abs(s - float(exact(keys[0], x[0], 0))) for s in sums)
    _, _, rounding = radius_terms(norms_of(sketch_of(keys), keys), 256)[0]
    length = np.linalg.norm(x.astype(np.float64))
    assert 0.8 * rounding * length < error <= rounding * length


def test_without_rounding_terms_a_key_on_the_grid_fires():
    keys, x = stair(256)
    bias = np.zeros(1, np.float32)
    sketch = sketch_of(keys)
    # Exactly, z is below the threshold by half of what a sequential sum adds to it.
    threshold = float(np.float32(1 + 1.5 * 255 * UNIT))
    assert exact(keys[0], x[0], 0) < threshold < max(evaluations(keys[0], x[0], bias[0]))
    assert wrongly_certified(sketch, keys, bias, x, threshold) == []
    assert wrongly_certified(without(sketch, keys, 1, 2), keys, bias, x, threshold) == [(0, 0)]


def test_without_the_biass_rounding_term_a_bias_added_first_fires():
    d = 256
    keys = np.full((1, d), 1.0, np.float32)
    x = np.full((1, d), UNIT * (1 + 2.0**-10), np.float32)
    bias = np.ones(1, np.float32)
    sketch = sketch_of(keys)
    threshold = float(np.float32(1 + 1.5 * d * UNIT))
    assert exact(keys[0], x[0], bias[0]) < threshold < max(evaluations(keys[0], x[0], bias[0]))
    assert wrongly_certified(sketch, keys, bias, x, threshold) == []
    assert wrongly_certified(sketch, keys, bias, x, threshold, slack=0.0) == [(0, 0)]


@pytest.mark.parametrize("scale", [2.0**-86, 2.0**-100])
def test_underflow_is_why_tiny_rows_are_never_certified(scale):
    """Products on both sides of the underflow threshold, flushed and gradual: beyond any gamma."""
    smallest = 2.0**-126 if scale == 2.0**-86 else 2.0**-149
    key = np.array([127, 64, 64, 64, 64], np.float32) * np.float32(scale)
    share = 0.99 if smallest == 2.0**-126 else 0.49
    products = np.array([0, 1, -share, -share, -share]) * smallest
    x = np.divide(products, key.astype(np.float64)).astype(np.float32)
    keys, x, bias = key[None], x[None], np.zeros(1, np.float32)
    assert fires(key, x[0], bias[0])
    assert exact(key, x[0], 0) < 0
    assert wrongly_certified(sketch_of(keys), keys, bias, x) == []
    # As the design first had it: s >= 2^-100.
    q, s, norms = np.zeros((1, 2, 64), np.int32), np.empty(1, np.float32), np.empty((1, 3))
    quantise(keys, np.zeros(5, np.float32), 2.0**-100, q, s, norms, np.empty(1, np.int32), ALONE)
    q = q[:, :, 0].copy().view(np.int8)
    looser = replace(sketch_of(keys), scale=s, radius=radius_of(radius_terms(norms, 5)))
    length = np.array([np.linalg.norm(x[0].astype(np.float64))])
    assert length[0] >= 2.0**-60
    e = float(s[0]) * float(q[0, :5].astype(np.float64) @ x[0].astype(np.float64))
    assert e + length[0] * float(looser.radius[0]) < 0  # certified, and it fires


def test_the_loss_of_sixteen_bits_is_covered():
    """x along what it loses on its way to 16 bits: without that term the neuron fires."""
    rng = np.random.default_rng(6)
    d = 48
    keys = rng.integers(-127, 128, (20, d)).astype(np.float32)
    keys[:, 0] = 127.0  # on the sketch's grid: no residual
    sketch = sketch_of(keys)
    x = rng.standard_normal((20, d)).astype(np.float32) * np.float32(1e-5)
    x[:, 1] = 1.0
    x[:, 2:] += np.sign(keys[:, 2:]) * np.float32(0.49 / 32767)
    z = (x.astype(np.float64) * keys).sum(1)
    bias = (-z * (1 - 2.0**-21)).astype(np.float32)
    assert not wrongly_certified(sketch, keys, bias, x, in_integers=True)
    lossless = replace(sketch, own_norm=np.zeros_like(sketch.own_norm))
    assert wrongly_certified(lossless, keys, bias, x, in_integers=True)


@given(st.integers(0, 2**31), st.integers(1, 7), st.sampled_from([1, 64, 100, 256]))
@settings(max_examples=60, deadline=None)
def test_the_integer_pass_is_exact(seed, d_ff, d):
    rng = np.random.default_rng(seed)
    keys = rng.standard_normal((d_ff, d)).astype(np.float32)
    x = (rng.standard_normal((3, d)) * 10.0 ** rng.integers(-6, 6)).astype(np.float32)
    sketch = sketch_of(keys)
    tokens = sums.Tokens(*sums.take_tokens(x, sketch.rows.shape[1], sketch.max_norm, True))
    found = np.empty((3, len(sketch.rows)))
    sums.integer_sums(0, tokens, sketch.q, found, 0)
    if sums.BYTES:
        number = tokens.digits[::2].astype(np.int64) * 256 + tokens.digits[1::2] - 2**15
        assert (number[:, d:] == -(2**15)).all()
    else:
        quads = tokens.digits.astype(np.int64).reshape(3, -1, 4)
        number = quads[:, :, list(words.ORDER)].reshape(3, -1)
        assert (number[:, d:] == 0).all()
    expected = number[:, :d] @ sketch.rows[:d_ff, :d].T.astype(np.int64)
    assert (found[:, :d_ff] - tokens.middle * sketch.row_sum == expected).all()
    loss = np.linalg.norm(x - tokens.step[:, None] * number[:, :d], axis=1)
    assert (loss <= tokens.loss).all()
    assert (tokens.loss <= 1e-4 * tokens.norm).all()


def test_norms_are_rounded_up():
    rng = np.random.default_rng(3)
    for d in (1, 7, 64, 1000):
        x = (rng.standard_normal(d) * 2.0 ** rng.integers(-20, 20, d)).astype(np.float32)
        norm = sums.upper_norm(x)
        assert norm**2 >= float(exact(x, x, 0))
        assert norm <= np.linalg.norm(x.astype(np.float64)) * (1 + 2.0**-30)


def test_the_radius_is_rounded_up():
    rng = np.random.default_rng(4)
    terms = rng.random((1000, 3))
    assert (radius_of(terms) >= terms.sum(1) * (1 + 16 * UNIT)).all()
    assert np.isinf(radius_of(np.full((1, 3), 1e39))).all()


@given(st.integers(1, 40), st.integers(1, 150))
@settings(max_examples=25, deadline=None)
@example(1, 1)
def test_serial_and_parallel_make_the_same_sketch(d_ff, d):
    keys = np.random.default_rng(d).standard_normal((d_ff, d)).astype(np.float32)
    made = []
    for threads in (1, 2, 3):
        q, s = np.zeros((-(-d_ff // 64), 64, 64), np.int32), np.empty(d_ff, np.float32)
        n, sums = np.empty((d_ff, 3)), np.empty(d_ff, np.int32)
        quantise(keys, np.zeros(d, np.float32), 2.0**-40, q, s, n, sums, team_of(threads))
        made.append((q, s, n, sums))
    for other in made[1:]:
        assert [a.tobytes() for a in other] == [a.tobytes() for a in made[0]]
    q, s, _, sums = made[0]
    q = np.moveaxis(q.view(np.int8).reshape(-1, 64, 64, 4), 1, 2).reshape(-1, 256)[:d_ff]
    assert (q.sum(1, dtype=np.int32) == sums).all()
    assert np.abs(keys - s[:, None].astype(np.float64) * q[:, :d]).max() <= s.max() * 0.5001


def test_gamma():
    assert gamma(100) == pytest.approx(100 * UNIT, rel=1e-5)
    assert gamma(100) > 100 * UNIT
