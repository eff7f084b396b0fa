"""Decoding against full passes, and beam search against an exhaustive one."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import reluctant
from reluctant.errors import ReluctantError
from reluctant.transformer import Transformer, TransformerConfig, beam_search, greedy

SOURCES = torch.tensor([[5, 7, 4, 9, 3], [4, 8, 0, 0, 0], [0, 6, 3, 0, 2]])


def build(dtype: torch.dtype = torch.float64, seed: int = 0, **options: Any) -> Transformer:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"encoder_layers": 2, "decoder_layers": 2, "source_vocab": 12}
    sizes |= {"d_model": 16, "heads": 4, "d_ff": 64}
    return Transformer(TransformerConfig(**(sizes | options))).to(dtype).eval()


def spread(model: Transformer, by: float = 3.0) -> Transformer:
    """At initialisation all logits are near zero: pull them apart."""
    with torch.no_grad():
        for parameter in model.decoder.layers[-1].add_norm_3.norm.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return model


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"norm_first": True, "positions": "learned"}])
@pytest.mark.parametrize("chunks", [[1] * 7, [3, 1, 2, 1], [7], [1, 6]], ids=str)
def test_steps_through_the_cache_give_the_full_pass(
    options: dict[str, Any], chunks: list[int]
) -> None:
    model, target = build(**options), torch.randint(3, 12, (3, 7))
    cache, start = model.start(SOURCES), 0
    for n in chunks:
        got = model.decode(target[:, start : start + n], cache)
        start += n
        expected = model(SOURCES, target[:, :start])[:, -n:]
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    assert cache.length == 7


@torch.no_grad()
def test_a_cache_goes_on_with_any_of_its_rows() -> None:
    model, target = build(), torch.randint(3, 12, (6, 8))
    cache = model.start(SOURCES)
    for i in range(4):  # two hypotheses a source; one buffer has grown by now
        model.decode(target[:, i : i + 1], cache)
    rows = torch.tensor([1, 1, 2, 3, 5, 4])
    cache.reorder(rows)
    target = torch.cat([target[rows, :4], target[:, 4:]], 1)
    for i in range(4, 8):
        got = model.decode(target[:, i : i + 1], cache)[:, 0]
        expected = model(SOURCES.repeat_interleave(2, 0), target[:, : i + 1])[:, -1]
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    with pytest.raises(ReluctantError, match=r"the step before \(6\); got 3"):
        model.decode(target[:3, :1], cache)
    with pytest.raises(ReluctantError, match=r"a multiple of the 3 sources.*got 4"):
        model.decode(target[:4, :1], model.start(SOURCES))


@torch.no_grad()
def by_hand(model: Transformer, source: Tensor, steps: int) -> list[int]:
    """Greedy decoding of one source that computes everything anew for every token."""
    tokens = [model.config.bos]
    for _ in range(steps):
        logits = model(source[None], torch.tensor([tokens]))[0, -1]
        logits[0] = -torch.inf  # padding
        tokens.append(int(logits.argmax()))
        if tokens[-1] == model.config.eos:
            break
    return tokens[1:]


def test_greedy_is_the_argmax_of_full_passes_row_by_row() -> None:
    ended = set()
    for seed in range(8):
        model = spread(build(seed=seed))
        tokens = greedy(model, SOURCES, max_length=9)
        for source, row in zip(SOURCES, tokens.tolist(), strict=True):
            expected = by_hand(model, source, 9)
            ended.add(expected[-1] == model.config.eos)
            assert row == expected + [0] * (len(row) - len(expected))
        assert tokens.size(1) == max(len(by_hand(model, source, 9)) for source in SOURCES)
    assert ended == {True, False}


def test_same_tokens_with_engines() -> None:
    model = spread(build(torch.float32, d_model=32, d_ff=128))
    expected = greedy(model, SOURCES), beam_search(model, SOURCES, max_length=9)
    report = reluctant.optimize(model, way="few")
    assert len(report.swapped) == 4
    assert not report.refused
    assert torch.equal(greedy(model, SOURCES), expected[0])
    beams = beam_search(model, SOURCES, max_length=9)
    assert torch.equal(beams.tokens, expected[1].tokens)
    torch.testing.assert_close(beams.scores, expected[1].scores)
    assert all(entry.engine.calls["few"] > 9 for entry in report.swapped[2:])


def test_choose_sees_logits_and_step_and_decides() -> None:
    model, seen = build(), []

    def choose(logits: Tensor, step: int) -> Tensor:
        assert logits.shape == (3, 12)
        assert logits[:, 0].isneginf().all()  # padding is not to be chosen
        seen.append(step)
        return torch.tensor([3 + step, 2, 5])  # the second row ends at once

    tokens = greedy(model, SOURCES, max_length=3, choose=choose)
    assert tokens.tolist() == [[3, 4, 5], [2, 0, 0], [5, 5, 5]]
    assert seen == [0, 1, 2]
    with pytest.raises(ReluctantError, match=r"choose: expected token ids of shape \(3,\)"):
        greedy(model, SOURCES, choose=lambda logits, step: logits.argmax())
    with pytest.raises(ReluctantError, match=r"torch\.float64"):
        greedy(model, SOURCES, choose=lambda logits, step: logits[:, 0])
    with pytest.raises(ReluctantError, match="expected token ids from 0 to 11"):
        greedy(model, SOURCES, choose=lambda logits, step: torch.full((3,), 12))


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 3.0])
def test_a_beam_of_one_is_greedy(length_penalty: float) -> None:
    for seed in range(8):
        model = spread(build(seed=seed))
        expected = greedy(model, SOURCES, max_length=9)
        beams = beam_search(
            model, SOURCES, beam=1, length_penalty=length_penalty, max_length=9, early_stop=False
        )
        assert torch.equal(beams.tokens[:, 0], expected)


TOY = {"source_vocab": 6, "target_vocab": 5, "tied": False, "d_model": 8, "heads": 2, "d_ff": 16}
LENGTH = 4  # of which 1 + 3 + 9 + 27 sequences end, and 81 are cut off: 121 in all


@torch.no_grad()
def exhaustive(model: Transformer, source: Tensor, penalty: float) -> list[tuple[float, list[int]]]:
    """Score and tokens of every sequence there is, the best first; bos may be chosen, pad not."""
    pad, bos, eos = 0, 1, 2
    found = []
    for length in range(1, LENGTH + 1):
        for sequence in itertools.product([bos, eos, 3, 4], repeat=length):
            ended = sequence[-1] == eos
            if eos in sequence[:-1] or not (ended or length == LENGTH):
                continue
            logits = model(source[None], torch.tensor([[bos, *sequence[:-1]]]))[0]
            logits[:, pad] = -torch.inf
            log_p = logits.log_softmax(-1)[range(length), sequence].sum()
            score = float(log_p) / ((5 + length) / 6) ** penalty
            found.append((score, [*sequence, *[pad] * (LENGTH - length)]))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_a_beam_as_wide_as_everything_is_an_exhaustive_search(penalty: float) -> None:
    model = spread(build(seed=5, **TOY), 1.0)
    sources = torch.tensor([[3, 4, 5], [5, 0, 0]])
    options: dict[str, Any] = {"length_penalty": penalty, "max_length": LENGTH}
    beams = beam_search(model, sources, beam=130, early_stop=False, **options)
    early = beam_search(model, sources, beam=130, **options)
    for row, source in enumerate(sources):
        expected = exhaustive(model, source, penalty)
        assert len(expected) == 121
        assert beams.tokens[row, :121].tolist() == [tokens for _, tokens in expected]
        scores = torch.tensor([score for score, _ in expected], dtype=beams.scores.dtype)
        torch.testing.assert_close(beams.scores[row, :121], scores, rtol=1e-5, atol=1e-6)
        assert beams.scores[row, 121:].isneginf().all()  # there were no more
        best = early.tokens[row, 0].tolist()
        assert best + [0] * (LENGTH - len(best)) == expected[0][1]


@pytest.mark.parametrize("penalty", [0.0, 0.6, 4.0])
def test_stopping_early_keeps_the_best_and_saves_steps(penalty: float) -> None:
    saved = 0
    options: dict[str, Any] = {"max_length": 12, "length_penalty": penalty}
    for seed in range(12):
        model = spread(build(seed=seed), 1.0)
        full = beam_search(model, SOURCES, early_stop=False, **options)
        early = beam_search(model, SOURCES, **options)
        n = early.tokens.size(2)
        assert torch.equal(early.tokens[:, 0], full.tokens[:, 0, :n])
        assert (full.tokens[:, 0, n:] == 0).all()
        assert (full.scores.diff(dim=1) <= 0).all()
        saved += full.tokens.size(2) - n
    assert saved > 0 or penalty == 4.0


def test_a_target_that_never_ends_stops_at_max_length() -> None:
    model = build()
    never = lambda logits, step: torch.full((len(logits),), 5)  # noqa: E731
    assert greedy(model, SOURCES, choose=never).shape == (3, 5 + 50)  # section 6.1
    assert greedy(model, SOURCES, choose=never, max_length=300).shape == (3, 300)
    table = build(positions="learned", max_positions=8)
    assert greedy(table, SOURCES, choose=never).shape == (3, 8)
    with pytest.raises(ReluctantError, match=r"expected 1 to 8 \(max_positions\), got 9"):
        greedy(table, SOURCES, max_length=9)
    with torch.no_grad():
        model.linear.weight[model.config.eos] = 0  # a beam in which nothing ends
        model.linear.weight[3:] = 0
    tied = beam_search(model, SOURCES, beam=2, max_length=6)
    assert tied.tokens.shape == (3, 2, 6)


def test_empty_batches_and_single_tokens() -> None:
    model = build()
    assert greedy(model, SOURCES[:0]).shape == (0, 0)
    assert beam_search(model, SOURCES[:0], beam=3).tokens.shape == (0, 3, 0)
    one = greedy(model, SOURCES[:1, :1], max_length=1)
    assert one.shape == (1, 1)
    assert beam_search(model, SOURCES[:1, :1], beam=3, max_length=1).tokens.shape == (1, 3, 1)


@pytest.mark.parametrize("search", [greedy, beam_search])
def test_refuses_training_mode_and_bad_arguments(search: Any) -> None:
    model = build()
    with pytest.raises(ReluctantError, match="max_length: expected 1 to any number"):
        search(model, SOURCES, max_length=0)
    with pytest.raises(ReluctantError, match=r"model\.eval"):
        search(model.train(), SOURCES)


@pytest.mark.parametrize("options", [{"beam": 0}, {"length_penalty": -1.0}])
def test_refuses_impossible_beams(options: dict[str, Any]) -> None:
    with pytest.raises(ReluctantError, match="expected beam of at least 1"):
        beam_search(build(), SOURCES, **options)


def test_all_padding_sources_decode_to_the_same_whatever_their_length() -> None:
    model = spread(build())
    short, long = torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 9, dtype=torch.long)
    tokens = greedy(model, short, max_length=6)
    assert torch.equal(tokens, greedy(model, long, max_length=6))
    assert beam_search(model, short, max_length=6).scores.isfinite().all()
