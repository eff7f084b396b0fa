"""Programs' operations, each against float64; and the most probable tokens."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reluctant.kernels.best import power
from reluctant.narrow import Narrow
from reluctant.program import DONE, NO_TOKEN, STALE, Program, most_probable, weights_of

sizes = st.sampled_from([1, 7, 31, 32, 33, 250, 256, 300])
seeds = st.integers(0, 999)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=300, deadline=None)
@given(st.floats(-100, 0, width=32))
def test_the_power(x: float) -> None:
    assert power(np.float32(x)) == pytest.approx(np.exp(x), rel=3e-7, abs=2e-38)


def test_the_power_at_its_ends() -> None:
    assert power(np.float32(0.0)) == 1.0
    assert power(np.float32(-np.inf)) == 0.0
    assert np.isnan(power(np.float32(np.nan)))


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 5), st.sampled_from([1, 5, 255, 256, 257, 1000]), st.integers(1, 8),
       st.booleans(), st.booleans())  # fmt: skip
def test_the_most_probable(
    seed: int, rows: int, n: int, k: int, without: bool, counts: bool
) -> None:
    k = min(k, n)
    logits = 5 * draw(seed, rows, n)
    logits[logits.abs() < 0.5] = 0.0  # equals
    truth = logits.double()
    left_out = seed % n if without and n > k else None
    if left_out is not None:
        truth[:, left_out] = truth[:, left_out] if counts else -torch.inf
    truth = truth.log_softmax(-1)
    if left_out is not None:
        truth[:, left_out] = -torch.inf
    ids, gains = most_probable(logits.clone(), k, left_out, counts=counts)
    values, order = truth.sort(dim=1, descending=True, stable=True)
    torch.testing.assert_close(gains.double(), values[:, :k], rtol=1e-6, atol=2e-6)
    assert torch.equal(ids, order[:, :k])


def test_a_nan_among_logits() -> None:
    logits = draw(0, 3, 300)
    logits[1, 270] = torch.nan
    ids, gains = most_probable(logits, 4, 5, counts=True)
    assert gains[1].isnan().all()
    assert ids[1].tolist() == [0, 1, 2, 3]
    assert gains[[0, 2]].isfinite().all()


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 9), sizes, st.booleans(), st.booleans())
def test_norms(seed: int, rows: int, d: int, adds: bool, bias: bool) -> None:
    norm = nn.LayerNorm(d, 1e-3, bias=bias).requires_grad_(False)
    norm.weight.copy_(draw(seed + 1, d))
    if bias:
        norm.bias.copy_(draw(seed + 2, d))
    x, y = 10 + 3 * draw(seed, rows, d), draw(seed + 3, rows, d)
    wanted, out = x + y if adds else x.clone(), torch.empty(rows, d)
    program = Program(torch.float32)
    program.norm(x, y if adds else None, out, norm)
    assert program.run() == DONE
    assert torch.equal(x, wanted)
    truth = norm.double()(wanted.double())
    assert (out.double() - truth).abs().max() <= 2e-6 * (1 + truth.abs().max())


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([1, 2, 6, 7, 40]), sizes, sizes, st.booleans())
def test_maps_have_the_bits_of_few_rows(seed: int, rows: int, n: int, d: int, bias: bool) -> None:
    x = draw(seed, rows, d)
    linears = [nn.Linear(d, n, bias).requires_grad_(False).half().float() for _ in range(2)]
    outs = [torch.full((rows, n), torch.nan) for _ in linears]
    program = Program(torch.float16)
    narrow = [Narrow(linear) for linear in linears]
    maps = [weights_of(*each) for each in zip(linears, narrow, strict=True)]
    if any(each.read is not torch.float16 for each in maps):  # few numbers: bfloat16, too
        return
    program.maps(x, maps, outs)
    assert program.run() == DONE
    for linear, out in zip(linears, outs, strict=True):
        torch.testing.assert_close(out, linear(x), rtol=1e-5, atol=1e-5)
    linears[1].weight.data.mul_(2)
    assert program.run() == STALE


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 40))
def test_attention_over_lists(seed: int, lists: int, several: int, heads: int, m: int) -> None:
    rows, d = lists * several, 16 * heads
    q, k, v = draw(seed, rows, d), draw(seed + 1, m, d), draw(seed + 2, m, d)
    seen = draw(seed + 3, lists, m) > -0.5
    seen[0] = False  # sees nothing
    room = np.zeros((lists, m), np.int32)
    for row, there in zip(room, seen, strict=True):
        row[: int(there.sum())] = there.nonzero()[:, 0]
    out = torch.full((rows, d), torch.nan)
    program = Program(torch.float32)
    program.attend(q, k, v, out, room, seen.sum(1).numpy(), heads)
    assert program.run() == DONE

    def split(t: Tensor) -> Tensor:
        return t.double().view(len(t), heads, -1).transpose(0, 1)

    mask = seen.repeat_interleave(several, 0)
    truth = F.scaled_dot_product_attention(*map(split, (q, k, v)), mask)
    truth = truth.transpose(0, 1).reshape(rows, d)
    assert (out[:several] == 0).all()
    torch.testing.assert_close(out.double()[several:], truth[several:], rtol=1e-5, atol=1e-5)


def test_tokens_and_what_is_left() -> None:
    ids, table, places = torch.tensor([3, 0, 2, 3]), draw(0, 4, 8), draw(1, 2, 8)
    out = torch.empty(4, 8)
    program = Program(torch.float32)
    program.embed(ids, table, 0.5, places, out)
    program.leave()
    program.norm(out, out.clone(), out, None)
    assert program.run() == 1
    torch.testing.assert_close(out, table[ids] * 0.5 + places.repeat(2, 1))
    assert program.run(2) == DONE
    for wrong in (-1, 4):
        ids[2] = wrong
        assert program.run() == NO_TOKEN
