"""Beam search against a plain one of a single sentence: neither batch nor padding may matter."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reluctant.errors import ReluctantError
from reluctant.transformer import (
    Transformer,
    TransformerConfig,
    beam_search,
    greedy,
    pooled_beam_search,
)

BOS, EOS = 1, 2
Hypotheses = list[tuple[float, list[int]]]


def build(seed: int, pad: int | None, vocab: int, **options: Any) -> Transformer:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"d_model": 8, "heads": 2, "d_ff": 16, "encoder_layers": 1}
    sizes |= {"decoder_layers": 2, "output_bias": True, "pad": pad}
    model = Transformer(TransformerConfig(vocab, **(sizes | options))).double().eval()
    with torch.no_grad():  # at initialisation all logits are near zero: pull them apart
        model.decoder.layers[-1].add_norm_3.norm.weight.normal_(std=2.0)
        model.linear.bias.normal_()
    return model


@torch.no_grad()
def plain(
    model: Transformer,
    source: list[int],
    beam: int,
    penalty: float,
    limit: int,
    early: bool,
    prefix: tuple[int, ...] = (),
    forced: bool = False,
) -> Hypotheses:
    """Score and tokens, the best first: no batch, no padding, no cache, all in Python's floats."""
    hypotheses: list[tuple[float, list[int]]] = [(0.0, list(prefix))]

    def score(log_p: float, length: int) -> float:
        return log_p / ((5 + length) / 6) ** penalty

    for length in range(len(prefix), limit):
        ended = [h for h in hypotheses if h[1][-1:] == [EOS]]
        going = [h for h in hypotheses if h[1][-1:] != [EOS]]
        best = max([score(p, len(t)) for p, t in ended], default=-float("inf"))
        if not going or (early and max(score(p, limit) for p, _ in going) <= best):
            break
        found = list(ended)
        targets = torch.tensor([[BOS, *tokens] for _, tokens in going])
        logits = model(torch.tensor([source] * len(going)), targets)[:, -1]
        if model.config.pad is not None:
            logits[:, model.config.pad] = -torch.inf
        all_gains = logits.log_softmax(-1)
        if forced and length == limit - 1:
            all_gains = torch.full_like(all_gains, -torch.inf)
            all_gains[:, EOS] = 0.0
        for (log_p, tokens), gains in zip(going, all_gains.tolist(), strict=True):
            for token, gain in enumerate(gains):
                if gain > -float("inf"):
                    found.append((log_p + gain, [*tokens, token]))
        hypotheses = sorted(found, key=lambda h: -score(h[0], len(h[1])))[:beam]
    return [(score(log_p, len(tokens)), tokens) for log_p, tokens in hypotheses]


def check(
    tokens: torch.Tensor, scores: torch.Tensor, expected: Hypotheses, pad: int | None
) -> None:
    """One sentence's rows of a result."""
    n = len(expected)
    torch.testing.assert_close(
        scores[:n], torch.tensor([s for s, _ in expected], dtype=scores.dtype), rtol=0, atol=1e-9
    )
    assert scores[n:].isneginf().all()
    after = EOS if pad is None else pad
    assert (tokens[n:] == after).all()
    for row, (_, written) in zip(tokens.tolist(), expected, strict=False):
        assert row[: len(written)] == written
        left = pad is None and written[-1] != EOS
        assert set(row[len(written) :]) <= {-1 if left else after}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vocab=st.sampled_from([4, 5, 9]),
    pad=st.sampled_from([0, 0, None]),
    impossible=st.sets(st.integers(2, 3), max_size=1),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    spare=st.integers(0, 3),
    beam=st.integers(1, 6),
    limit=st.integers(1, 7),
    penalty=st.sampled_from([0.0, 0.6, 1.0, 3.0]),
    early=st.booleans(),
)
def test_every_sentence_of_a_batch_is_searched_as_if_it_were_alone(
    seed: int,
    vocab: int,
    pad: int | None,
    impossible: set[int],
    lengths: list[int],
    spare: int,
    beam: int,
    limit: int,
    penalty: float,
    early: bool,
) -> None:
    model = build(seed, pad, vocab)
    with torch.no_grad():
        model.linear.bias[list(impossible)] = -torch.inf
    if pad is None:
        lengths, spare = [max(lengths)] * len(lengths), 0
    generator = torch.Generator().manual_seed(seed)
    sources = [torch.randint(1, vocab, (n,), generator=generator).tolist() for n in lengths]
    width = max(lengths) + spare
    batch = torch.tensor([source + [pad or 0] * (width - len(source)) for source in sources])
    options: dict[str, Any] = {"beam": beam, "length_penalty": penalty, "early_stop": early}
    tokens, scores = beam_search(model, batch, max_length=limit, **options)
    for row, source in enumerate(sources):
        expected = plain(model, source, beam, penalty, limit, early)
        check(tokens[row], scores[row], expected, pad)
        alone = beam_search(model, torch.tensor([source]), max_length=limit, **options)
        check(alone.tokens[0], alone.scores[0], expected, pad)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    prefix=st.lists(st.integers(3, 8), max_size=3),
    each=st.booleans(),
    forced=st.booleans(),
    more=st.integers(1, 4),
    beam=st.integers(1, 4),
)
def test_a_prefix_and_a_forced_end_cost_nothing(
    seed: int, prefix: list[int], each: bool, forced: bool, more: int, beam: int
) -> None:
    model = build(seed, 0, 9)
    batch, limit = torch.tensor([[3, 4, 5], [6, 0, 0]]), len(prefix) + more
    given = [prefix, [3] * len(prefix)] if each else [prefix, prefix]
    options: dict[str, Any] = {"prefix": torch.tensor(given) if each else prefix}
    options |= {"forced_eos": forced, "max_length": limit}
    tokens, scores = beam_search(model, batch, beam=beam, **options)
    best = greedy(model, batch, **options)
    for row, source in enumerate([[3, 4, 5], [6]]):
        rest = (0.6, limit, True, tuple(given[row]), forced)
        check(tokens[row], scores[row], plain(model, source, beam, *rest), 0)
        (_, alone), *_ = plain(model, source, 1, *rest)
        assert best[row].tolist() == alone + [0] * (best.size(1) - len(alone))


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ((0,), "none of them pad or eos"),
        ((3, EOS), "none of them pad or eos"),
        ((9,), "expected ids below 9"),
        ((-1,), "expected ids below 9"),
        ((0.5,), r"expected ids \(length,\) or \(1, length\), got \(1,\) torch.float32"),
        (torch.tensor([[3], [4]]), r"got \(2, 1\)"),
        ((3, 4, 5, 6), "expected fewer tokens than max_length, 4; got 4"),
    ],
)
@pytest.mark.parametrize("search", [greedy, beam_search, pooled_beam_search])
def test_refuses_a_prefix_that_cannot_be_one(search: Any, prefix: Any, message: str) -> None:
    with pytest.raises(ReluctantError, match=message):
        search(build(0, 0, 9), torch.tensor([[3]]), max_length=4, prefix=prefix)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams of at least 1"),
        ({"length_penalty": float("inf")}, "a finite length_penalty"),
        ({"early_stopping": "soon"}, "expected True, False or 'never', got 'soon'"),
    ],
)
def test_refuses_beams_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ReluctantError, match=message):
        pooled_beam_search(build(0, 0, 9), torch.tensor([[3]]), **options)


def test_pools_of_a_tiny_vocabulary_and_of_no_sources() -> None:
    model = build(0, None, 4)
    tokens, scores = pooled_beam_search(model, torch.tensor([[3, 1]]), num_beams=4, max_length=2)
    assert (scores[0].diff() <= 0).all()
    assert len(tokens[0].unique(dim=0)) == 4
    assert pooled_beam_search(model, torch.zeros(0, 2, dtype=torch.long)).tokens.shape == (0, 4, 0)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_without_a_max_length_a_sentence_may_have_fifty_more_than_its_own(positions: str) -> None:
    """Not fifty more than the longest of its batch."""
    model = build(0, 0, 9, positions=positions, max_positions=54)
    with torch.no_grad():
        model.linear.bias[EOS] = -torch.inf  # nothing ends
    batch = torch.tensor([[3, 4, 5, 6, 7], [8, 4, 0, 0, 0], [0, 0, 0, 0, 0]])
    together, beams = greedy(model, batch), beam_search(model, batch, beam=2)
    for row, n in enumerate([5, 2, 0]):
        limit = 50 + n if positions == "sinusoidal" else min(50 + n, 54)
        alone = greedy(model, batch[row : row + 1, : max(n, 1)])
        assert alone.shape == (1, limit)
        assert torch.equal(together[row, :limit], alone[0])
        assert (together[row, :limit] != 0).all()
        assert (together[row, limit:] == 0).all()
        two = beam_search(model, batch[row : row + 1, : max(n, 1)], beam=2)
        assert torch.equal(beams.tokens[row, :, :limit], two.tokens[0])
        assert (beams.tokens[row, :, limit:] == 0).all()
        torch.testing.assert_close(beams.scores[row], two.scores[0], rtol=0, atol=1e-9)


def test_scores_are_as_precise_as_the_logits_whatever_the_default_dtype() -> None:
    model = build(3, 0, 9)
    source = torch.tensor([[3, 4, 5]])
    expected = beam_search(model, source, max_length=6, length_penalty=0.6)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        got = beam_search(model, source, max_length=6, length_penalty=0.6)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(got.tokens, expected.tokens)
    assert torch.equal(got.scores, expected.scores)
    (score, tokens), *_ = plain(model, [3, 4, 5], 4, 0.6, 6, True)
    assert abs(expected.scores[0, 0].item() - score) < 1e-12 * len(tokens)
