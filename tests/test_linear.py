"""Products for few rows: against float64, and the same bits whatever is computed beside them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reluctant import linear
from reluctant.kernels import linear as kernels
from reluctant.kernels.team import ALONE, team_of
from reluctant.sketch import SERVED
from reluctant.weights import as_array

dtypes = pytest.mark.parametrize("dtype", SERVED, ids=str)


def draw(seed, n, d, rows, dtype, *, bias=True):
    generator = torch.Generator().manual_seed(seed)
    w, x = (torch.randn(k, d, generator=generator).to(dtype) for k in (n, rows))
    return x, w, torch.randn(n, generator=generator).to(dtype) if bias else None


@dtypes
@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 999), st.integers(1, 70), st.integers(1, 150), st.integers(1, 16), st.booleans()
)
def test_as_true_as_float64_allows(dtype, seed, n, d, rows, biased):
    x, w, bias = draw(seed, n, d, rows, dtype, bias=biased)
    y = linear.few_rows(x, w, bias)
    shift = torch.zeros(n) if bias is None else bias
    truth = x.double() @ w.double().T + shift.double()
    # Any order of float32 additions, then one rounding to the weights' dtype.
    size = x.double().abs() @ w.double().abs().T + shift.double().abs()
    kind = torch.finfo(dtype)
    rounding = kind.eps * (truth.abs() + kind.tiny) if dtype is not torch.float32 else 0
    assert ((y.double() - truth).abs() <= (d + 2) * 2.0**-24 * size + rounding).all()


@dtypes
@pytest.mark.parametrize(("n", "d"), [(1, 1), (7, 15), (64, 33), (131, 64), (70, 200)])
def test_a_rows_bits_are_its_own(dtype, n, d):
    x, w, bias = draw(n, n, d, 16, dtype)
    alone = [linear.few_rows(x[m : m + 1], w, bias)[0] for m in range(16)]
    for rows in range(1, 17):
        for team in (ALONE, team_of(2)):
            y = torch.empty(rows, n, dtype=dtype)
            arrays = [as_array(t) for t in (x[:rows], w, bias, y)]
            kernels.run(*arrays, team)
            assert torch.equal(y, torch.stack(alone[:rows]))


@dtypes
@pytest.mark.parametrize("biased", [False, True])
def test_some_outputs_have_the_bits_they_have_among_all(dtype, biased):
    x, w, bias = draw(3, 90, 77, 5, dtype, bias=biased)
    every = linear.few_rows(x, w, bias)
    ids = torch.tensor([0, 3, 4, 17, 63, 64, 88, 89])
    for m in range(5):
        assert torch.equal(linear.some_outputs(x, m, w, bias, ids), every[m, ids])
    none = linear.some_outputs(x, 0, w, bias, ids[:0])
    assert none.shape == (0,)


def test_nan_and_infinity_go_through():
    x, w, _ = draw(1, 9, 40, 3, torch.float32)
    x[1, 7], w[4, 3] = torch.nan, torch.inf
    y = linear.few_rows(x, w, None)
    assert y[1].isnan().all()
    assert not y[0, 4].isfinite()
    assert y[0, [0, 1, 2, 3, 5, 6, 7, 8]].isfinite().all()


@dtypes
def test_leading_dimensions_stay(dtype):
    x, w, bias = draw(2, 12, 20, 6, dtype)
    y = linear.few_rows(x.reshape(2, 3, 20), w, bias)
    assert torch.equal(y.reshape(6, 12), linear.few_rows(x, w, bias))


def test_what_is_not_served():
    x, w, bias = draw(0, 12, 20, 4, torch.float32)
    assert linear.serves(x, w, bias)
    assert not linear.serves(x.double(), w.double(), bias.double())
    assert not linear.serves(x, w.bfloat16(), None)
    assert not linear.serves(x, w, bias.bfloat16())
    assert not linear.serves(x, w, bias[:1])  # torch would broadcast it; a kernel read beyond it
    assert not linear.serves(x, w, torch.cat([bias, bias]))
    assert not linear.serves(x.T.contiguous().T, w, bias)
    assert not linear.serves(x, w.T.contiguous().T, bias)
    assert not linear.serves(x[:0], w, bias)
    assert not linear.serves(torch.randn(17, 20), w, bias)
    assert not linear.serves(x[:, :19].contiguous(), w, bias)


def test_an_output_of_nothing():
    y = linear.few_rows(torch.ones(2, 4), torch.ones(0, 4), None)
    assert y.shape == (2, 0)
    assert np.asarray(y).size == 0
