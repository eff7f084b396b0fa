"""Batches: every pair once, within the limit, little padding, the same for the same seed."""

import random
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reluctant.errors import ReluctantError
from reluctant.translation.batches import Batches
from reluctant.translation.vocabulary import BOS, EOS, PAD

rows = st.lists(st.integers(4, 99), max_size=9)
drawn = st.lists(st.tuples(rows, rows), max_size=40)


def corpus(pairs: int) -> Batches:
    rng = random.Random(0)
    lengths = [min(round(rng.lognormvariate(2.9, 0.6)), 150) for _ in range(pairs)]
    others = [round(n * rng.lognormvariate(0, 0.2)) for n in lengths]
    return Batches([[7] * n for n in lengths], [[8] * n for n in others], 4096, seed=1)


def padding(batches: Batches, epoch: list[list[int]]) -> float:
    ids = [batches.collate(each) for each in epoch]
    pads = sum(int((x == PAD).sum()) for each in ids for x in (each.source, each.target))
    return pads / sum(x.numel() for each in ids for x in (each.source, each.target))


@settings(deadline=None)
@given(drawn, st.integers(10, 60), st.integers(0, 5), st.integers(0, 5))
def test_every_pair_once_and_no_batch_above_the_limit(
    pairs: list[tuple[list[int], list[int]]], tokens: int, seed: int, number: int
) -> None:
    batches = Batches([p[0] for p in pairs], [p[1] for p in pairs], tokens, seed)
    assert len(batches) == len(pairs)
    for order in (batches.epoch(number), batches.in_order()):
        assert sorted(i for batch in order for i in batch) == list(range(len(pairs)))
        for indices in order:
            assert indices
            batch = batches.collate(indices)
            assert batch.source.numel() <= tokens
            assert batch.target.numel() <= tokens


@settings(deadline=None)
@given(st.lists(st.tuples(rows, rows), min_size=1, max_size=6), st.randoms())
def test_collate_puts_marks_and_padding_around_the_ids(
    pairs: list[tuple[list[int], list[int]]], rng: random.Random
) -> None:
    batches = Batches([p[0] for p in pairs], [p[1] for p in pairs], 100, 0)
    indices = rng.sample(range(len(pairs)), rng.randint(1, len(pairs)))
    batch = batches.collate(indices)
    assert batch.target.shape == batch.labels.shape
    for tensor in batch:
        assert tensor.dtype == torch.int64
        assert not (tensor == PAD).all(0).any()  # no column for nothing
    for index, source, target, labels in zip(indices, *batch, strict=True):
        for row, expected in [
            (source, [*pairs[index][0], EOS]),
            (target, [BOS, *pairs[index][1]]),
            (labels, [*pairs[index][1], EOS]),
        ]:
            assert row.tolist() == expected + [PAD] * (len(row) - len(expected))


def test_an_epoch_is_a_function_of_its_number_and_the_seed_alone() -> None:
    ids = [[5] * (i % 17) for i in range(500)]
    batches = Batches(ids, ids[::-1], 100, seed=3)
    first = batches.epoch(0)
    torch.manual_seed(1)
    state, other = torch.get_rng_state(), batches.epoch(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert Batches(ids, ids[::-1], 100, seed=3).epoch(0) == batches.epoch(0) == first
    assert first != other
    assert first != Batches(ids, ids[::-1], 100, seed=4).epoch(0)
    assert sorted(map(sorted, first)) != sorted(map(sorted, other))  # pairs meet others


def test_the_first_epoch_is_the_one_of_the_first_version() -> None:
    # a run that goes on after an update must see the same batches
    ids = [[5] * (i * i % 7) for i in range(9)]
    assert Batches(ids, ids[::-1], 16, seed=0).epoch(0) == [[2, 5, 3], [6], [8, 7, 0, 1, 4]]


def test_little_is_padding_and_short_and_long_alternate() -> None:
    batches = corpus(20_000)
    epoch = batches.epoch(0)
    assert padding(batches, epoch) < 0.1
    assert padding(batches, batches.in_order()) < 0.1
    order = random.Random(0).sample(range(20_000), 20_000)
    assert padding(batches, [order[i : i + 50] for i in range(0, 20_000, 50)]) > 0.5
    first, second = (
        torch.tensor([float(len(b)) for b in half]) for half in (epoch[::2], epoch[1::2])
    )
    n = min(len(first), len(second))
    assert torch.corrcoef(torch.stack([first[:n], second[:n]]))[0, 1].abs() < 0.5  # random order


@settings(max_examples=20, deadline=None)
@example([([5] * 20, [5])] + [([5], [5] * 3)] * 10)  # a long one, then short ones
@given(drawn)
def test_in_order_is_from_short_to_long_and_as_full_as_it_may_be(
    pairs: list[tuple[list[int], list[int]]],
) -> None:
    batches = Batches([p[0] for p in pairs], [p[1] for p in pairs], 30, 0)
    order = batches.in_order()
    flat = [i for batch in order for i in batch]
    lengths = [len(pairs[i][1]) for i in flat]
    assert all(later >= length - 1 for length, later in pairwise(lengths))
    assert order == batches.in_order()
    for batch, following in pairwise(order):
        more = batches.collate([*batch, following[0]])
        assert max(more.source.numel(), more.target.numel()) > 30


def test_refuses() -> None:
    assert Batches([[5] * 9], [[5]], 10, 0).epoch(0) == [[0]]
    for source, target in (([5] * 10, [5]), ([5], [5] * 10)):
        with pytest.raises(ReluctantError, match=r"at most 10 tokens.*one of 11"):
            Batches([source, []], [target, []], 10, 0)
    with pytest.raises(ReluctantError, match="1 sources and 2 targets"):
        Batches([[5]], [[5], [6]], 10, 0)
    with pytest.raises(ReluctantError, match="seed from 0 up, got -1"):
        Batches([], [], 10, -1)
