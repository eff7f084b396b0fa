"""The second product for many tokens, against float64 and against itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawn import ACTIVATIONS, drawn, reference
from reluctant.kernels import many
from reluctant.kernels.codes import RELU
from reluctant.kernels.team import team_of

shapes = st.tuples(
    st.integers(0, 2**31),
    st.sampled_from([1, 15, 16, 17, 127, 128, 129, 300]),
    st.sampled_from([1, 3, 64, 1023, 1024, 1030, 2100]),
    st.sampled_from([1, 2, 17, 127, 129, 300]),
    st.sampled_from([-2.0, -1.0, 0.0, 1.0]),
)


def run(threads, z, kind, values, bias, limit=2.0):
    out = np.full((len(z), values.shape[1]), 7, np.float32)
    code, threshold = kind
    found = many.combine(z, threshold, code, values, bias, limit, out, team_of(threads))
    return found, out


@given(shapes, st.sampled_from(ACTIVATIONS))
@settings(max_examples=120, deadline=None)
def test_against_float64_and_serial_against_parallel(shape, kind):
    seed, d, d_ff, tokens, shift = shape
    rng = np.random.default_rng(seed)
    z = (rng.standard_normal((tokens, d_ff)) + shift).astype(np.float32)
    values = (rng.standard_normal((d_ff, d)) / np.sqrt(d_ff)).astype(np.float32)
    bias = rng.standard_normal(d).astype(np.float32)
    active, out = run(1, z, kind, values, bias)
    h = reference(*kind, z.astype(np.float64))
    expected = h @ values.astype(np.float64) + bias
    assert np.abs(out - expected).max() <= 2e-5 * max(1, np.abs(expected).max())
    assert active == (z > np.float32(kind[1])).sum()
    for threads in (2, 3):
        again, parallel = run(threads, z, kind, values, bias)
        assert again == active
        assert parallel.tobytes() == out.tobytes()


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_what_is_not_finite_shows(kind):
    rng = np.random.default_rng(0)
    z = (rng.standard_normal((4, 64)) - 4).astype(np.float32)
    z[1, 3], z[2, 3], z[3, 3] = np.nan, np.inf, -np.inf
    values = rng.standard_normal((64, 20)).astype(np.float32)
    bias = np.zeros(20, np.float32)
    with np.errstate(invalid="ignore"):
        expected = reference(*kind, z) @ values
    _, out = run(1, z, kind, values, bias)
    for test in (np.isnan, np.isposinf, np.isneginf):
        assert (test(out) == test(expected)).all()


def test_a_dense_z_is_left_to_the_dense_way():
    *_, x = drawn(0, 64, 8, 40)
    values, bias = np.ones((64, 16), np.float32), np.zeros(16, np.float32)
    for threads in (1, 2):
        status, out = run(threads, x, (RELU, 0.0), values, bias, limit=0.3)
        assert status == -1
        assert (out == 7).all()
        assert run(threads, x, (RELU, 0.0), values, bias, limit=0.7)[0] == (x > 0).sum()
