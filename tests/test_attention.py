"""Attention's kernel: as true as torch's, and each query's bits its own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from reluctant.attention import attention, serves
from reluctant.kernels.attention import exponential
from reluctant.sketch import SERVED

dtypes = pytest.mark.parametrize("dtype", SERVED, ids=str)


def draw(seed, batch, heads, n, m, d, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, length, heads, d) for length in (n, m, m)]
    return [torch.randn(s, generator=generator).to(dtype).transpose(1, 2) for s in shapes]


@settings(max_examples=300, deadline=None)
@given(st.floats(-800, 0))
def test_the_exponential(x):
    assert exponential(x) == pytest.approx(np.exp(x), rel=4e-15, abs=1e-303)


def test_the_exponential_at_its_ends():
    assert exponential(0.0) == 1.0
    assert exponential(-np.inf) == 0.0
    assert np.isnan(exponential(np.nan))


@dtypes
@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 999),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 40),
    st.sampled_from([1, 7, 16, 64, 150]),
    st.sampled_from(["", "keys", "all"]),
)
def test_as_true_as_float64_allows(dtype, seed, batch, heads, n, m, d, masked):
    q, k, v = draw(seed, batch, heads, n, m, d, dtype)
    mask = None
    if masked:
        shape = (batch, 1, 1, m) if masked == "keys" else (batch, heads, n, m)
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.7
        mask[..., 0] = True
    assert serves(q, k, v, mask)
    y = attention(q, k, v, mask)
    truth = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), mask)
    wanted = truth.transpose(1, 2).flatten(2)
    unit = torch.finfo(dtype).eps if dtype is not torch.float32 else 0
    off = (y.double() - wanted).abs()
    assert (off <= 3e-6 * v.double().abs().max() * (1 + d**0.5) + unit * wanted.abs() + 1e-7).all()


def test_causal_and_nowhere():
    q, k, v = draw(0, 2, 3, 6, 6, 16)
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(q, k, v, causal=True), wanted)
    mask = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    mask[1] = False
    assert (attention(q, k, v, mask)[1] == 0).all()
    assert (attention(q, k[:, :, :0], v[:, :, :0]) == 0).all()


def test_nan_and_infinity_stay():
    q, k, v = draw(0, 1, 1, 2, 5, 16)
    k[0, 0, 3, 0] = torch.nan
    assert attention(q, k, v).isnan().all()
    mask = torch.tensor([True, True, True, False, True]).view(1, 1, 1, 5)
    assert attention(q, k, v, mask).isfinite().all()
    v[0, 0, 1, 2] = torch.inf
    y = attention(q, k, v, mask)
    assert (y[..., 2] == torch.inf).all()
    assert y[..., 3].isfinite().all()


@dtypes
@pytest.mark.parametrize("d", [7, 64, 150])
def test_a_querys_bits_are_its_own(dtype, d):
    """Alone, in a batch, with padding before and behind, from memory that lies otherwise."""
    q, k, v = draw(1, 5, 4, 9, 13, d, dtype)
    every = attention(q, k, v)
    for b in (0, 3):
        assert torch.equal(attention(q[b : b + 1], k[b : b + 1], v[b : b + 1])[0], every[b])
        for i in (0, 8):
            alone = attention(q[b : b + 1, :, i : i + 1], k[b : b + 1], v[b : b + 1])
            assert torch.equal(alone[0, 0], every[b, i])
    for before, behind in ((0, 1), (3, 0), (2, 70)):
        padded = [F.pad(t, (0, 0, before, behind), value=9.0) for t in (k, v)]
        mask = F.pad(torch.ones(1, 1, 1, 13, dtype=torch.bool), (before, behind))
        assert torch.equal(attention(q, *padded, mask), every)
    longer = attention(q, *(t.contiguous() for t in (k, v)))
    assert torch.equal(longer, every)
    causal = attention(k, k, v, causal=True)
    assert torch.equal(attention(k[:, :, :4], k[:, :, :4], v[:, :, :4], causal=True), causal[:, :4])


def test_what_it_does_not_take():
    q, k, v = draw(0, 1, 2, 3, 4, 8)
    assert serves(q, k, v, None)
    assert not serves(q.double(), k.double(), v.double(), None)
    assert not serves(q, k, v.half(), None)
    for shape in ((3, 4), (2, 3, 4), (1, 1, 1, 4)):
        assert serves(q, k, v, torch.zeros(shape))
    for shape in ((3, 5), (3, 3, 4), (1, 1, 1, 1, 4), (4,)):
        assert not serves(q, k, v, torch.zeros(shape))
    assert not serves(q, k, v, torch.zeros(3, 4, dtype=torch.int64))
    assert not serves(q, k.transpose(2, 3).contiguous().transpose(2, 3), v, None)
    assert not serves(q, k[:, :1], v[:, :1], None)
    # More queries than keys would be read beyond the keys' end; torch takes no mask beside causal.
    assert not serves(q, k, v, None, causal=True)
    assert not serves(k, k, v, torch.ones(4, 4, dtype=torch.bool), causal=True)
    assert serves(k, k, v, None, causal=True)


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5), (4, 1, 1, 5), (4, 2, 3, 5)])
def test_masks_that_are_added(shape):
    q, k, v = draw(0, 4, 2, 3, 5, 16)
    mask = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    mask[mask > 1] = -torch.inf
    mask.view(-1, 5)[:, 0] = 0.5
    wanted = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(q, k, v, mask), wanted)
    hidden = torch.where(mask == -torch.inf, mask, 0.0)
    assert torch.equal(attention(q, k, v, hidden), attention(q, k, v, hidden == 0))
