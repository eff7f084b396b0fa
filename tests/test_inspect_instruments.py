"""The instruments, batch by batch, against the same counted at once and slowly."""

import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from inspected import kept
from reluctant.activations import resolve
from reluctant.engine import Engine
from reluctant.lab.contexts import KEPT, Contexts
from reluctant.lab.density import EDGES, Density
from reluctant.lab.instruments import Instrument
from reluctant.lab.placed import AFTER, BEFORE, Placed
from reluctant.lab.rank import effective_rank
from reluctant.lab.residual import EITHER, NO_NORM, OTHER, Residual, Residuals
from reluctant.lab.sample import Reservoir
from reluctant.lab.saves import computed
from reluctant.lab.watch import Watch

briefly = settings(deadline=None, max_examples=30)
sequences = st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=6), min_size=1, max_size=5)


def placed(rows: list[list[int]]) -> Placed:
    width = max(map(len, rows))
    ids = torch.tensor([row + [7] * (width - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return Placed(ids, mask)


@briefly
@given(sequences)
def test_where_rows_stand(rows: list[list[int]]) -> None:
    found = placed(rows)
    flat = [(id, at, row) for row in rows for at, id in enumerate(row)]
    assert found.ids.tolist() == [id for id, _, _ in flat]
    assert found.positions.tolist() == [at for _, at, _ in flat]
    assert found.follows.tolist() == [at > 0 for _, at, _ in flat[1:]]
    for window, (_, at, row) in zip(found.windows.tolist(), flat, strict=True):
        wide = [-1] * BEFORE + row + [-1] * AFTER
        assert window == wide[at : at + BEFORE + 1 + AFTER]


@briefly
@given(sequences, st.integers(0, 2**20))
def test_density(rows: list[list[int]], seed: int) -> None:
    density, rng = Density(40, positions=6, vocabulary=9), random.Random(seed)
    where: list[tuple[int, int, int]] = []
    for row in rows:
        counts = [rng.choice([0, 1, 4, 20, 39, 40]) for _ in row]
        density.add(torch.tensor(counts), placed([row]))
        where += zip(counts, row, range(len(row)), strict=True)
    every = [count for count, _, _ in where]
    assert (density.tokens, density.active) == (len(every), sum(every))
    assert (density.least, density.most) == (min(every), max(every))
    for i, count in enumerate(density.histogram.tolist()):
        low, high = EDGES[i], EDGES[i + 1]
        assert count == sum(low <= c / 40 < high or c == 40 * high == 40 for c in every)
    for id in range(9):
        mine = [c for c, each, _ in where if each == id]
        assert density.by_token[:, id].tolist() == [sum(mine), len(mine)]
    for at in range(6):
        mine = [c for c, _, each in where if each == at]
        assert density.by_position[:, at].tolist() == [sum(mine), len(mine)]


@briefly
@given(st.integers(0, 2**20), st.lists(st.integers(0, 12), min_size=1, max_size=6))
def test_contexts_are_the_largest(seed: int, sizes: list[int]) -> None:
    """However the tokens are cut into batches; those that are not active are none."""
    generator = torch.Generator().manual_seed(seed)
    contexts, d_ff = Contexts(3), 3
    h = torch.randn(sum(sizes), d_ff, generator=generator)
    active = torch.rand(h.shape, generator=generator) < 0.7
    windows = torch.arange(sum(sizes), dtype=torch.int32)[:, None].expand(-1, BEFORE + 1 + AFTER)
    at = 0
    for size in sizes:
        piece = slice(at, at + size)
        contexts.add(h[piece], active[piece], windows[piece])
        at += size
    for i in range(d_ff):
        fired = [(abs(float(h[t, i])), t) for t in range(len(h)) if active[t, i]]
        best = sorted(fired, reverse=True)[:KEPT]
        assert contexts.sizes[i, : len(best)].tolist() == [size for size, _ in best]
        assert contexts.values[i, : len(best)].tolist() == [float(h[t, i]) for _, t in best]
        assert contexts.windows[i, : len(best), 0].tolist() == [t for _, t in best]
        assert not contexts.sizes[i, len(best) :].any()


def test_of_equals_the_first_stays() -> None:
    contexts = Contexts(1)
    for number in range(20):
        window = torch.full((1, BEFORE + 1 + AFTER), number, dtype=torch.int32)
        contexts.add(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), window)
    assert contexts.windows[0, :, 0].tolist() == list(range(KEPT))


@briefly
@given(st.integers(0, 2**20), st.lists(st.integers(0, 9), max_size=12))
def test_a_sample_does_not_depend_on_batches(seed: int, sizes: list[int]) -> None:
    rows = torch.arange(float(sum(sizes)))[:, None]
    whole, pieces = Reservoir(5, width=1, seed=seed), Reservoir(5, width=1, seed=seed)
    whole.add(rows)
    for piece in rows.split(sizes) if sizes else ():
        pieces.add(piece)
    assert torch.equal(whole.rows, pieces.rows)
    kept = whole.rows.squeeze(1).tolist()
    assert len(kept) == min(5, len(rows)) == len(set(kept))


def test_each_row_is_as_likely() -> None:
    counts = torch.zeros(12)
    for seed in range(1500):
        reservoir = Reservoir(4, width=1, seed=seed)
        for piece in torch.arange(12.0)[:, None].split(5):
            reservoir.add(piece)
        counts[reservoir.rows.squeeze(1).long()] += 1
    assert (counts - 500).abs().max() < 5 * math.sqrt(500 * 2 / 3)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_of_equal_singular_values(rank: int) -> None:
    left, _ = torch.linalg.qr(torch.randn(20, rank, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(9, rank, dtype=torch.float64))
    assert effective_rank(left @ right.T) == pytest.approx(rank)


def test_effective_rank_of_nothing() -> None:
    assert effective_rank(torch.zeros(3, 3)) == 0
    assert effective_rank(torch.zeros(0, 3)) == 0
    assert math.isnan(effective_rank(torch.tensor([[1.0, 2.0], [math.nan, 0.0]])))
    assert math.isnan(effective_rank(torch.tensor([[1.0, 2.0], [math.inf, 0.0]])))


def watch(activation: str = "relu", *, gated: bool = False, d_ff: int = 12) -> Watch:
    torch.manual_seed(0)
    up, down = nn.Linear(4, d_ff), nn.Linear(d_ff, 4)
    gate = nn.Linear(4, d_ff) if gated else None
    return Watch("layer", Engine(up, down, resolve(activation), gate=gate))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ["relu", "relu2", "gelu", "silu", "hardswish", "identity"])
def test_a_watch_computes_the_layer(activation: str, gated: bool) -> None:
    one, x = watch(activation, gated=gated), torch.randn(2, 3, 4)
    seen: list[Any] = []
    one.see = lambda _, what: seen.append(what)
    with torch.no_grad():
        assert torch.allclose(one(x), one.engine(x), atol=1e-6)
        one.without = 5
        without = one(x)
    values = one.engine.neurons.values
    assert torch.equal(seen[1].z, seen[0].z)
    lost = seen[0].h[:, 5:6] * values[5]
    assert torch.allclose(without, (seen[0].y - lost).view(x.shape), atol=1e-6)
    z, h = seen[0].z, seen[0].h
    below = {"relu": 0.0, "relu2": 0.0, "hardswish": -3.0}.get(activation)
    wanted = h != 0 if below is None else ~(z <= below)
    assert torch.equal(one.active(seen[0]), wanted)
    assert one.keys is not one.engine.neurons.keys or not gated


def test_a_gate_that_is_open_counts_where_its_factor_is_zero() -> None:
    one = watch(gated=True)
    with torch.no_grad():
        one.engine.neurons.up.weight.zero_()
        one.engine.neurons.up.bias.zero_()
        seen = one.compute(torch.randn(5, 4))
    assert not seen.h.any()
    assert torch.equal(one.active(seen), seen.z > 0)


def test_a_neuron_at_its_threshold_is_not_active() -> None:
    one = watch()
    z = torch.tensor([[0.0, -0.0, 1e-30, -1e-30, float("nan")] + [-1.0] * 7])
    seen = one.compute(torch.zeros(1, 4))._replace(z=z)
    assert one.active(seen)[0, :5].tolist() == [False, False, True, False, True]


def test_calls_that_stand_nowhere_are_counted_as_such() -> None:
    one = watch()
    instrument = Instrument(one, positions=6, vocabulary=9, seed=1)
    with torch.no_grad():
        seen = one.compute(torch.randn(3, 4))
    instrument.add(seen, None)
    assert (instrument.tokens, instrument.unplaced, instrument.neighbours) == (3, 3, 0)
    assert not instrument.density.by_position.any()
    assert not instrument.contexts.sizes.any()


def test_padding_is_left_out() -> None:
    one, rows = watch(), [[1, 2, 3], [4]]
    x = torch.randn(6, 4)
    x[4:] = 100.0
    padded, plain = (Instrument(one, positions=6, vocabulary=9, seed=1) for _ in range(2))
    with torch.no_grad():
        padded.add(one.compute(x), placed(rows))
        plain.add(one.compute(x[:3]), placed(rows[:1]))
        plain.add(one.compute(x[3:4]), placed(rows[1:]))
    assert torch.equal(padded.use, plain.use)
    assert torch.allclose(padded.energy, plain.energy)
    assert torch.equal(padded.sample.rows, plain.sample.rows)
    assert (padded.tokens, padded.neighbours) == (4, 2) == (plain.tokens, plain.neighbours)
    assert padded.overlap == pytest.approx(plain.overlap)


def test_memory_is_fixed() -> None:
    one, found = watch(), list[int]()
    for calls in (300, 10, 300):  # the first time for what is made once
        instrument = Instrument(one, positions=6, vocabulary=9, seed=1)
        before = instrument.memory_bytes
        with torch.no_grad(), kept() as bytes_kept:
            for _ in range(calls):
                instrument.add(one.compute(torch.randn(8, 4)), placed([[1, 2, 3, 4, 5, 6], [1, 2]]))
        assert instrument.tokens == 8 * calls
        assert instrument.memory_bytes == before
        found += bytes_kept
    assert found[2] - found[1] < 20_000  # x alone, kept, would be 37 KB more


def residual_of(model: nn.Module, run: Any, width: int = 4) -> tuple[Tensor | None, str]:
    found: list[Residual] = []
    with Residuals(model, {width}) as residuals:
        run(lambda x, y: residuals.called(x, y, found.append))
    assert len(found) == 1
    assert not any(module._forward_hooks for module in model.modules())
    return found[0].rows, found[0].why


X, Y = torch.randn(5, 4), torch.randn(5, 4)


def test_pre_norm_residual() -> None:
    norms = nn.ModuleList([nn.LayerNorm(4), nn.RMSNorm(4)])

    def run(called: Any) -> None:
        called(norms[0](X), Y)
        norms[1](X + Y)

    residual, why = residual_of(norms, run)
    assert residual is not None
    assert torch.equal(residual, X)
    assert why == ""


def test_something_between_is_no_residual() -> None:
    norms = nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)])

    def run(called: Any) -> None:
        called(norms[0](X), Y)
        norms[1](X + 0.99 * Y)

    assert residual_of(norms, run) == (None, OTHER)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_residual_in_few_digits(dtype: torch.dtype) -> None:
    """What fits is looked for in each element: a difference of a few percent is no rounding."""
    norms = nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)]).to(dtype)
    stream, y = (3 * X).to(dtype), Y.to(dtype)

    def pre_norm(called: Any) -> None:
        called(norms[0](stream), y)
        norms[1](stream + y)

    def post_norm(called: Any) -> None:
        x = norms[0](stream)
        called(x, y)
        norms[1](x + y)

    def scaled(called: Any) -> None:
        called(norms[0](stream), y)
        norms[1](stream + 0.95 * y)

    with torch.no_grad():
        before, _ = residual_of(norms, pre_norm)
        own, _ = residual_of(norms, post_norm)
        assert before is not None
        assert own is not None
        assert torch.equal(before, stream)
        assert torch.equal(own, norms[0](stream))
        assert residual_of(norms, scaled) == (None, OTHER)


def test_a_residual_that_cannot_be_told_is_none() -> None:
    """Both sums are y, as what is added is lost in rounding."""
    norms = nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)]).bfloat16()
    stream, y = (1e-3 * X).bfloat16(), torch.full_like(X, 1e5).bfloat16()

    def run(called: Any) -> None:
        called(norms[0](stream), y)
        norms[1](stream + y)

    with torch.no_grad():
        assert residual_of(norms, run) == (None, EITHER)


def test_of_two_residuals_that_fit_it_is_the_nearer_one() -> None:
    """Next to 512 bfloat16 has steps of 4, which is all that is left of the difference."""
    norms = nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)]).bfloat16()
    stream = torch.tensor([[5.0, -1.0, 0.0, 1.0], [1.0, 0.0, -5.0, 1.0]]).bfloat16()
    y = torch.full_like(stream, 512.0)

    def run(called: Any) -> None:
        called(norms[0](stream), y)
        norms[1](stream + y)

    with torch.no_grad():
        assert not torch.equal(norms[0](stream) + y, stream + y)
        residual, _ = residual_of(norms, run)
    assert residual is not None
    assert torch.equal(residual, stream)


def test_what_is_written_into_later_is_seen_as_it_was() -> None:
    """A model may add to its residual stream in place."""
    norms = nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)])
    stream = X.clone()

    def run(called: Any) -> None:
        called(norms[0](stream), Y)
        stream.add_(Y)
        norms[1](stream)

    with torch.no_grad():
        residual, _ = residual_of(norms, run)
    assert residual is not None
    assert torch.equal(residual, X)
    one, seen = watch(), list[Any]()
    one.see = lambda _, what: seen.append(what)
    x = torch.randn(3, 4)
    with torch.no_grad():
        wanted = one.compute(x.clone())
        one(x).add_(1.0)
        x.add_(1.0)
    assert torch.equal(seen[0].x, wanted.x)
    assert torch.equal(seen[0].y, wanted.y)


def test_sums_of_large_numbers_and_of_none() -> None:
    one = watch("identity")
    instrument = Instrument(one, positions=6, vocabulary=9, seed=1)
    h = torch.tensor([[1e20, 2.0], [3e20, math.nan], [2e20, 3.0]]).repeat(1, 6)
    with torch.no_grad():
        seen = one.compute(torch.randn(3, 4))._replace(z=h, h=h)
    instrument.add(seen, placed([[1, 2, 3]]))
    assert instrument.energy[0] == pytest.approx(14e40)
    assert instrument.energy[1].isnan()
    assert instrument.not_finite == 1
    assert instrument.contexts.values[1, :3].tolist() == [3.0, 2.0, 0.0]
    assert instrument.contexts.values[0, :3].tolist() == pytest.approx([2e20, 1e20, 0.0])


def test_no_norm_is_no_residual() -> None:
    assert residual_of(nn.ModuleList([nn.LayerNorm(3)]), lambda called: called(X, Y)) == (
        None,
        NO_NORM,
    )


@pytest.mark.parametrize("gated", [False, True])
def test_what_is_read(gated: bool) -> None:
    """Bytes counted one by one, for 3 active of 5 candidates of 12 neurons."""
    one = watch(gated=gated)
    rows = 3 if gated else 2
    dense = 12 * rows * 4 * 4
    engine = 12 * 4 + 5 * 4 * 4 + 3 * 4 * 4 * (rows - 1)
    found = computed(one, 3 / 12, 5 / 12)
    assert found.bytes_share == pytest.approx(engine / dense)
    assert found.flops_share == pytest.approx((5 + 3 * (rows - 1)) / (12 * rows))
