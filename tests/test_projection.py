"""Bounds of logits: no float32 evaluation leaves them, hostile numbers or not."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from arithmetic import evaluations
from reluctant.errors import ReluctantError
from reluctant.kernels import projection as kernels
from reluctant.kernels.lanes import GROUP
from reluctant.kernels.team import ALONE, team_of
from reluctant.projection import Projection, Stale
from reluctant.sketch import SERVED, Sketch
from reluctant.weights import as_array

dtypes = pytest.mark.parametrize("dtype", SERVED, ids=str)


def head(seed, n, d, dtype=torch.float32, *, bias=True, offset=0.3):
    generator = torch.Generator().manual_seed(seed)
    made = nn.Linear(d, n, bias=bias).requires_grad_(False)
    made.weight.copy_(torch.randn(n, d, generator=generator) * 0.1)
    made.weight.add_(offset * torch.randn(d, generator=generator))
    if bias:
        made.bias.copy_(torch.randn(n, generator=generator))
    return made.to(dtype), torch.randn(16, d, generator=generator).to(dtype)


def exact(linear, x):
    w = linear.weight.double()
    bias = torch.zeros(len(w)) if linear.bias is None else linear.bias
    return x.double() @ w.T + bias.double()


@dtypes
@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 999), st.integers(8, 200), st.integers(2, 140), st.integers(1, 7), st.booleans()
)
def test_the_true_logits_lie_between(dtype, seed, n, d, rows, biased):
    linear, x = head(seed, n, d, dtype, bias=biased)
    low, up = Projection(linear).bounds(x[:rows])
    truth = exact(linear, x[:rows])
    assert low.shape == up.shape == (rows, n)
    assert ((low <= truth) & (truth <= up)).all()
    size = x[:rows].double().norm(dim=1)[:, None] * linear.weight.double().norm(dim=1)
    # And they say something: but for rows of which nothing is left without their mean.
    assert (up - low).median() < 0.1 * size.max() + 1e-3


@pytest.mark.parametrize("in_integers", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_no_float32_evaluation_leaves_them(seed, in_integers):
    """Orders, groupings, FMA, subnormals flushed or kept; rows on the sketch's very grid."""
    linear, x = head(seed, 70, 24, offset=[0.0, 0.3, 40.0][seed % 3])
    w = linear.weight
    if seed % 2:  # exactly on the grid, as nothing is then lost but by additions
        w.copy_((w / 0.01).round() * 0.0078125)
        w.sub_(w.mean(0))
    sketch = Sketch.of(w, centred=True)
    low, up = (np.empty((1, 2 * GROUP), np.float32) for _ in range(2))
    missing = 2 * GROUP - 70
    rows = (sketch.scale, sketch.radius, sketch.own_norm, sketch.row_sum)
    bias = np.pad(linear.bias.numpy(), (0, missing))
    arguments = (sketch.q, *(np.pad(array, (0, missing)) for array in rows), bias)
    rest = (sketch.centre, sketch.max_norm, sketch.slack, in_integers and sketch.in_integers)
    kernels.bounds(x[:1].numpy(), *arguments, *rest, low, up, ALONE)
    for i in range(70):
        for z in evaluations(w[i].numpy(), x[0].numpy(), linear.bias[i].numpy()):
            assert low[0, i] <= z <= up[0, i]


def test_the_gamma_of_the_real_rows_is_needed():
    """The mean far away, the rest on the grid: all that is lost is lost by adding up the whole."""
    d = 64
    rng = np.random.default_rng(0)
    q = rng.integers(-127, 128, (128, d)).astype(np.float32)
    q[:, 0] = 127
    centre = rng.standard_normal(d).astype(np.float32) * np.float32(2.0**12)
    w = (q - q.mean(0)) * np.float32(2.0**-10) + centre
    x = rng.standard_normal(d).astype(np.float32)
    left = 0
    linear = nn.Linear(d, 128, bias=False).requires_grad_(False)
    linear.weight.copy_(torch.from_numpy(w))
    low, up = Projection(linear).bounds(torch.from_numpy(x)[None])
    for i in range(128):
        for z in evaluations(linear.weight[i].numpy(), x, np.float32(0)):
            assert low[0, i] <= z <= up[0, i]
            truth = float(sum(Fraction(float(a)) * Fraction(float(b))
                              for a, b in zip(linear.weight[i], x, strict=True)))  # fmt: skip
            left += abs(z - truth) > 1e-6 * abs(truth)
    assert left > 0


@dtypes
def test_hostile_rows_and_inputs_are_never_ruled_out(dtype):
    linear, x = head(1, 130, 32, dtype)
    linear.weight[3] = linear.weight.float().mean(0).to(dtype)  # nothing is left to be sketched
    linear.weight[4] = 0
    projection = Projection(linear)
    x = x[:5].clone()
    x[0, 3], x[1, 4], x[2], x[3] = torch.nan, torch.inf, 0, 2.0**-24
    if dtype is not torch.float16:
        x[3] = 2.0**-60
    low, up = projection.bounds(x)
    for m in (0, 1, 2):
        assert (up[m] == torch.inf).all()
        assert (low[m] == -torch.inf).all()
    every = projection.all(x)
    for m in (3, 4):
        assert ((low[m].to(dtype) <= every[m]) & (every[m] <= up[m].to(dtype))).all()


@pytest.mark.parametrize("number", [2.0**80, 3e38])
def test_what_may_overflow_is_open(number):
    linear, x = head(2, 70, 16)
    linear.weight[5, 2] = number
    low, up = Projection(linear).bounds(x[:2] * 2.0**60)
    assert (up == torch.inf).all()
    assert (low == -torch.inf).all()


@dtypes
def test_the_same_bits_whatever_the_team_and_the_batch(dtype):
    linear, x = head(3, 700, 48, dtype)
    projection = Projection(linear)
    low, up = projection.bounds(x)
    now = projection._get()
    for rows in (1, 2, 3, 5):
        few = projection.bounds(x[:rows])
        assert torch.equal(few[0], low[:rows])
        assert torch.equal(few[1], up[:rows])
    biases = as_array(torch.cat([linear.bias, torch.zeros(-700 % GROUP).to(dtype)]))
    for team in (ALONE, team_of(2)):
        again = [np.empty((16, 704), np.float32) for _ in range(2)]
        kernels.bounds(as_array(x), *now.rows, biases, *now.rest, *again, team)
        assert (again[0][:, :700] == low.numpy()).all()
        assert (again[1][:, :700] == up.numpy()).all()


def test_weights_that_change_are_seen():
    linear, x = head(4, 300, 32)
    projection = Projection(linear)
    projection.bounds(x[:1])
    linear.weight.mul_(3.0)  # torch knows
    low, up = projection.bounds(x[:1])
    truth = exact(linear, x[:1])
    assert ((low <= truth) & (truth <= up)).all()
    linear.bias.data.add_(7.0)  # it does not, but biases are read afresh
    low, up = projection.bounds(x[:1])
    truth = exact(linear, x[:1])
    assert ((low <= truth) & (truth <= up)).all()


def test_rows_rewritten_unseen_are_found_by_turns():
    linear, x = head(5, 320, 32)
    projection = Projection(linear)
    projection.bounds(x[:1])
    linear.weight.data[200:220] *= 3.0
    found = 0
    for _ in range(16):
        try:
            projection.bounds(x[:1])
        except Stale:
            found += 1
    assert found == 1
    low, up = projection.bounds(x[:1])  # a new sketch
    truth = exact(linear, x[:1])
    assert ((low <= truth) & (truth <= up)).all()


def test_a_logit_outside_its_bounds_is_found_at_once():
    linear, x = head(6, 320, 32)
    projection = Projection(linear)
    low, up = projection.bounds(x[:1])
    ids = torch.tensor([3, 5])
    projection.some(x[:1], 0, ids, low[0, ids], up[0, ids])
    linear.weight.data[5] *= 10.0
    with pytest.raises(Stale):
        projection.some(x[:1], 0, ids, low[0, ids], up[0, ids])


def test_weights_that_are_not_finite_are_refused():
    linear, x = head(7, 64, 8)
    linear.weight[1, 1] = torch.inf
    with pytest.raises(ReluctantError, match="NaN or an infinity"):
        Projection(linear).bounds(x[:1])


def test_weights_of_whose_changes_torch_does_not_tell_are_refused():
    with torch.inference_mode():
        made = nn.Linear(16, 1000)
        with pytest.raises(ReluctantError, match="inference mode"):
            Projection(made).bounds(torch.ones(1, 16))
