"""Greedy decoding with an output projection that is served: the same tokens, few rows read."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import reluctant
from reluctant.surgery.report import Report
from reluctant.transformer import Transformer, TransformerConfig, beam_search, greedy
from reluctant.transformer import pooled_beam_search as pooled

V = 5000
SOURCES = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 0], [10, 0, 0, 0]])


def build(seed: int = 0, **options: Any) -> Transformer:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"d_model": 32, "heads": 2, "d_ff": 64, "encoder_layers": 1}
    sizes |= {"decoder_layers": 2, "output_bias": True, "tied": False}
    model = Transformer(TransformerConfig(V, **(sizes | options))).eval()
    with torch.no_grad():  # at initialisation all logits are near zero: pull them apart
        model.linear.weight.normal_()
        model.linear.bias.normal_()
    return model


def served(model: Transformer) -> tuple[Transformer, Report]:
    model = copy.deepcopy(model)
    return model, reluctant.optimize(model)


def all_logits(logits: Tensor, step: int) -> Tensor:
    """A choice of one's own: it looks at all."""
    return logits.argmax(-1)


def decoding(report: Report) -> Any:
    assert report.head is not None
    return report.head.decoding


@pytest.mark.parametrize("pad", [0, None])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_tokens_from_few_rows(pad: int | None, tied: bool, dtype: torch.dtype) -> None:
    for seed in range(3):
        before = build(seed, pad=pad, tied=tied).to(dtype)
        model, report = served(before)
        counts = decoding(report)
        tokens = greedy(model, SOURCES, max_length=12)
        expected = greedy(model, SOURCES, max_length=12, choose=all_logits)
        assert torch.equal(tokens, expected)
        if dtype is torch.float32:
            assert torch.equal(tokens, greedy(before, SOURCES, max_length=12))
        decisions = tokens.size(1) * len(SOURCES)
        assert len(counts.rows) == decisions
        assert sum(counts.rows) < 0.05 * V * decisions
        assert (counts.all, dict(counts.reasons)) == (0, {})


def test_padding_is_left_out_however_likely_it_is() -> None:
    before = build()
    with torch.no_grad():
        before.linear.bias[0] = 1e4
    model, report = served(before)
    tokens = greedy(model, SOURCES, max_length=6)
    assert torch.equal(tokens, greedy(before, SOURCES, max_length=6))
    assert not (tokens[:, 0] == 0).any()
    assert max(decoding(report).rows) < V // 10


def test_weights_that_have_changed_unseen_are_noticed() -> None:
    model, _ = served(build())
    greedy(model, SOURCES, max_length=4)
    for seed in range(4):
        torch.manual_seed(seed)
        model.linear.weight.data.normal_()  # torch does not count it
        expected = greedy(model, SOURCES, max_length=8, choose=all_logits)
        assert torch.equal(greedy(model, SOURCES, max_length=8), expected)


def hook(model: Transformer) -> None:
    model.linear.register_forward_hook(lambda module, args, y: y.neg())


def own_decode(model: Transformer) -> None:
    plain = model.decode
    model.decode = lambda *args: -plain(*args)  # type: ignore[method-assign]


def own_forward(model: Transformer) -> None:
    plain = model.linear.forward
    model.linear.forward = lambda x: -plain(x)  # type: ignore[method-assign]


@pytest.mark.parametrize("change", [hook, own_decode, own_forward])
def test_who_looks_at_logits_or_changes_them_gets_them(
    change: Callable[[Transformer], None],
) -> None:
    model, report = served(build())
    change(model)
    tokens = greedy(model, SOURCES, max_length=6)
    assert torch.equal(tokens, greedy(model, SOURCES, max_length=6, choose=all_logits))
    assert decoding(report).rows == []


def test_what_cannot_be_certified_is_computed() -> None:
    model, report = served(build())
    counts = decoding(report)
    many = SOURCES.repeat(6, 1)
    tokens = greedy(model, many, max_length=4)
    assert torch.equal(tokens, greedy(model, many, max_length=4, choose=all_logits))
    assert counts.reasons["more than 16 sequences at once"] == tokens.size(1)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = greedy(model, SOURCES, max_length=4)
        expected = greedy(model, SOURCES, max_length=4, choose=all_logits)
    assert torch.equal(tokens, expected)
    assert counts.reasons["a mode of torch watches or casts operations"] == tokens.size(1)
    with torch.no_grad():
        model.linear.weight[5, 3] = torch.nan
    tokens = greedy(model, SOURCES, max_length=4)
    assert torch.equal(tokens, greedy(model, SOURCES, max_length=4, choose=all_logits))
    assert counts.rows == []
    assert counts.all == tokens.numel()


def test_in_inference_mode_and_after_restore() -> None:
    before = build()
    expected = greedy(before, SOURCES, max_length=6)
    model, report = served(before)
    with torch.inference_mode():
        assert torch.equal(greedy(model, SOURCES, max_length=6), expected)
    read = len(decoding(report).rows)
    assert read == expected.numel()
    reluctant.restore(model)
    assert torch.equal(greedy(model, SOURCES, max_length=6), expected)
    assert len(decoding(report).rows) == read


@pytest.mark.parametrize("search", [beam_search, pooled])
def test_the_same_beams(search: Any) -> None:
    before = build()
    model, _ = served(before)
    tokens, scores = search(model, SOURCES, max_length=6)
    expected = search(before, SOURCES, max_length=6)
    assert torch.equal(tokens, expected.tokens)
    torch.testing.assert_close(scores, expected.scores, rtol=1e-4, atol=1e-4)
