"""What the study measures with, against something slow and obvious."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.lab.rank import effective_rank
from reluctant.lab.study import neurons
from reluctant.lab.study.linear_map import best_linear, r_squared
from reluctant.lab.study.probe import accuracy
from reluctant.lab.study.rank import distance_from_alike, distinct
from reluctant.lab.study.words import CLASSES, kinds_before, labels
from reluctant.translation.batches import Batches
from reluctant.translation.vocabulary import EOS, Vocabulary

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = st.tuples(st.integers(2, 12), st.integers(1, 8), st.integers(0, 2**31))


def drawn(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=60)
@given(SIZES, st.floats(0.01, 100))
def test_effective_rank(size: tuple[int, int, int], scale: float) -> None:
    x = drawn(*size).numpy().astype(np.float64)
    values = [math.sqrt(max(v, 0.0)) for v in np.linalg.eigvalsh(x.T @ x)]
    entropy = 0.0
    for value in values:
        share = value / sum(values)
        entropy -= share * math.log(share) if share > 0 else 0.0
    found = effective_rank(torch.from_numpy(x * scale))
    assert found == pytest.approx(math.exp(entropy), rel=1e-6)
    assert 1 - 1e-9 <= found <= min(x.shape) + 1e-9


def test_effective_rank_of_what_is_known() -> None:
    assert effective_rank(torch.eye(7)[:, :3]) == pytest.approx(3)
    assert effective_rank(torch.outer(torch.arange(1.0, 5), torch.ones(3))) == pytest.approx(1)
    assert effective_rank(torch.zeros(4, 3)) == 0


@settings(deadline=None, max_examples=60)
@given(SIZES)
def test_distance_from_alike(size: tuple[int, int, int]) -> None:
    """No other matrix of equal rows is nearer."""
    x = drawn(*size).double()
    found = distance_from_alike(x) * float(x.norm())
    for seed in range(20):
        other = x.mean(0) + 0.3 * drawn(1, x.shape[1], seed).double()
        assert found <= float((x - other).norm()) + 1e-9
    assert found == pytest.approx(math.sqrt(sum(float((r - x.mean(0)).norm()) ** 2 for r in x)))
    assert distance_from_alike(torch.zeros(3, 2)) == 0


def test_distinct_sets_are_counted_one_by_one() -> None:
    h = torch.relu(drawn(200, 4, 0))
    assert distinct(h) == len({tuple((row > 0).tolist()) for row in h}) / 200


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 2**31))
def test_best_linear_map_is_numpys(d_in: int, d_out: int, seed: int) -> None:
    x, y = drawn(40, d_in, seed), drawn(40, d_out, seed + 1)
    both = np.concatenate([x.numpy(), np.ones((40, 1))], 1).astype(np.float64)
    wanted = np.linalg.lstsq(both, y.numpy().astype(np.float64), rcond=None)[0]
    found = best_linear(x, y)
    assert np.allclose(found.weight.numpy(), wanted[:-1])
    assert np.allclose(found.bias.numpy(), wanted[-1])
    left = y.numpy() - both @ wanted
    r2 = 1 - (left**2).sum() / ((y.numpy() - y.numpy().mean(0)) ** 2).sum()
    assert r_squared(found(x), y) == pytest.approx(r2, abs=1e-5)
    assert -1e-6 <= r2 <= 1


def test_r_squared_is_of_what_is_held_out() -> None:
    """A map fitted on as many tokens as it has inputs is perfect there, and useless elsewhere."""
    x, y = drawn(8, 7, 0), drawn(8, 3, 1)
    found = best_linear(x, y)
    assert r_squared(found(x), y) == pytest.approx(1, abs=1e-6)
    assert r_squared(found(drawn(500, 7, 2)), drawn(500, 3, 3)) < 0


def test_probes_read_what_is_there_and_nothing_else() -> None:
    x, other = drawn(1500, 6, 0), drawn(1500, 6, 1)

    def sums(x: Tensor) -> Tensor:
        return (x[:, 0] + 0.5 * x[:, 1] > 0).long() + 2 * (x[:, 2] > 0).long()

    def either(x: Tensor) -> Tensor:
        return (x[:, 0] > 0).long() ^ (x[:, 1] > 0).long()

    assert accuracy(x, sums(x), (other, sums(other))) > 0.95
    assert accuracy(x, either(x), (other, either(other))) < 0.6  # no sum of features tells it
    with_product = [
        torch.cat([each, (each[:, :1] * each[:, 1:2]).sign()], 1) for each in (x, other)
    ]
    assert accuracy(with_product[0], either(x), (with_product[1], either(other))) > 0.98
    noise = torch.randint(2, (1500,), generator=torch.Generator().manual_seed(2))
    assert abs(accuracy(x, noise, (other, noise.flip(0))) - 0.5) < 0.06


def test_probes_do_not_mind_scales_offsets_and_dead_features() -> None:
    x, other = drawn(600, 3, 0), drawn(600, 3, 1)
    scale, offset = torch.tensor([1e-3, 1e4, 1.0, 1.0, 1.0]), torch.tensor([7.0, -3e4, 0, 0, 7])
    read = [torch.cat([each, torch.zeros(600, 2)], 1) * scale + offset for each in (x, other)]
    y, wanted = (x[:, 0] > 0).long(), (other[:, 0] > 0).long()
    assert accuracy(read[0], y, (read[1], wanted)) > 0.95


def planted(tokens: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Five neurons - of a conjunction, of one part, of either, of nothing, and of one part but more
    of both - and the two things, (tokens, 1) each.
    """
    draw = torch.Generator().manual_seed(seed)
    first, second = (torch.rand(tokens, 1, generator=draw) < 0.4 for _ in range(2))
    noise = torch.rand(tokens, 5, generator=draw) < 0.05
    often = torch.rand(tokens, 1, generator=draw) < 0.35
    both = first & second
    nothing = torch.zeros_like(both)
    active = torch.cat([both, first, first | second, nothing, both | (first & often)], 1) | noise
    return active, first, second


@pytest.mark.parametrize("seed", range(5))
def test_neurons_of_a_conjunction_are_found_and_no_others(seed: int) -> None:
    active, first, second = planted(4000, seed)
    found = neurons.rates(active, first[:, 0], second[:, 0])
    assert found is not None
    assert neurons.conjunctive(found).tolist() == [True, False, False, False, False]
    assert neurons.share(active, first, second) == 0.2
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(seed))
    assert neurons.share(active, first[order], second[order]) == 0


@pytest.mark.parametrize(
    ("rates", "wanted"),
    [
        ((0.098, 0.049, 0.049, 0.0), False),  # what the two add up to, each of it seldom
        ((0.10, 0.049, 0.0, 0.0), False),  # answers to the first alone, if seldom
        ((0.12, 0.06, 0.06, 0.0), False),
        ((0.4, 0.2, 0.2, 0.0), False),
        ((0.5, 0.3, 0.3, 0.1), False),
        ((0.04, 0.0, 0.0, 0.0), False),  # seldom where both hold
        ((0.4, 0.4, 0.4, 0.4), False),  # always the same
        ((0.1, 0.0, 0.0, 0.2), False),  # most often where neither does
        ((0.05, 0.0, 0.0, 0.0), True),
        ((0.4, 0.05, 0.05, 0.05), True),
        ((0.4, 0.2, 0.1, 0.1), True),
    ],
)
def test_conjunctions_by_their_rates(rates: tuple[float, ...], wanted: bool) -> None:
    found = neurons.Rates(*(torch.tensor([rate], dtype=torch.float64) for rate in rates))
    assert neurons.conjunctive(found).tolist() == [wanted]
    swapped = found._replace(first=found.second, second=found.first)
    assert neurons.conjunctive(swapped).tolist() == [wanted]


@given(*[st.floats(0, 1)] * 3)
def test_what_two_parts_add_up_to_is_no_conjunction(a: float, b: float, neither: float) -> None:
    first, second = max(a, neither), max(b, neither)
    rates = (first + second - neither, first, second, neither)
    found = neurons.Rates(*(torch.tensor([rate], dtype=torch.float64) for rate in rates))
    assert not neurons.conjunctive(found).any()


def test_rates_are_counted_one_by_one() -> None:
    active, first, second = planted(2000, 0)
    found = neurons.rates(active, first[:, 0], second[:, 0])
    assert found is not None
    cells = {(True, True): found.both, (True, False): found.first}
    cells |= {(False, True): found.second, (False, False): found.neither}
    for (a, b), rate in cells.items():
        rows = [
            active[i].tolist()
            for i in range(2000)
            if (bool(first[i, 0]), bool(second[i, 0])) == (a, b)
        ]
        assert rate.tolist() == pytest.approx(
            [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        )


def test_too_few_tokens_say_nothing() -> None:
    active, first, second = planted(300, 0)
    assert neurons.rates(active, first[:, 0], second[:, 0]) is None
    assert neurons.share(active, first, second) == 0


@pytest.mark.parametrize(
    ("tokens", "classes"),
    [
        (
            "▁The ▁do g ▁is ▁in ▁the ▁gar den .",
            "other article article other auxiliary preposition article article other",
        ),
        ("▁she ▁, ▁and ▁I", "other pronoun other conjunction"),
        ("the ▁cat", "other article"),
        ("", ""),
    ],
)
def test_kinds_of_the_word_before(tokens: str, classes: str) -> None:
    assert [CLASSES[kind] for kind in kinds_before(tokens.split())] == classes.split()


def test_labels_are_of_every_token_in_order() -> None:
    sentences = ["The dog is in the garden.", "She and he can see it."]
    vocabulary = Vocabulary.train(sentences * 9, size=400)
    ids = vocabulary.encode(sentences)
    batch = Batches(ids, ids, 100, 0).collate([0, 1])
    found = labels([batch], vocabulary)
    count = sum(len(each) + 1 for each in ids)
    assert [len(each) for each in found] == [count] * 4
    assert found.token.tolist() == [*ids[0], EOS, *ids[1], EOS]
    assert found.function.tolist() == [int(kind > 0) for kind in found.kind.tolist()]
    n = len(ids[0]) + 1
    assert found.place[:n].tolist() == [3 * i // n for i in range(n)]
    assert found.early[:n].tolist() == [int(i < n / 2) for i in range(n)]
    assert found.place[n] == 0


def test_labels_want_english() -> None:
    sentences = ["Der Hund ist im Garten.", "Sie und er sehen es."]
    vocabulary = Vocabulary.train(sentences * 9, size=400)
    ids = vocabulary.encode(sentences)
    batch = Batches(ids, ids, 100, 0).collate([0, 1])
    with pytest.raises(ReluctantError, match="expected English sources"):
        labels([batch], vocabulary)
