"""A trained model: the same texts as its own package, token for token, with and without engines."""

from typing import Any

import pytest
import torch

import reluctant
from reluctant.bench import accentor as package
from reluctant.transformer import Transformer, beam_search, greedy

pytest.importorskip("ruaccent")
TEXTS = ["Привет, мир!", "Мы шли домой.", "Замок закрыт на замок."]


@pytest.fixture(scope="module")
def accentor() -> Any:
    threads = torch.get_num_threads()
    loaded = package.load()
    torch.set_num_threads(threads)
    return loaded


def ours(accentor: Any) -> Transformer:
    """Source and target share the embedding; padding is not masked in the package."""
    theirs = accentor.model
    model: Transformer = Transformer.from_torch(
        *(theirs.transformer, theirs.embed.char_embed),
        output=theirs.output_proj,
        positions=theirs.embed.pos_encoding,
    )
    return model


@pytest.mark.parametrize("texts", [TEXTS[:1], pytest.param(TEXTS, marks=pytest.mark.slow)])
def test_same_tokens_as_the_package_with_and_without_engines(
    accentor: Any, texts: list[str]
) -> None:
    source = torch.cat([package.source(accentor, text) for text in texts])
    expected = accentor.model.generate(source)[:, 1:]
    model, end = ours(accentor), accentor.vocab["</s>"]
    dense = greedy(model, source, max_length=256)
    report = reluctant.optimize(model)
    assert len(report.swapped) == 8
    served = greedy(model, source, max_length=256)
    calls = [entry.engine.calls for entry in report.swapped if "decoder" in entry.name]
    sparse = min(each["few"] + each["many"] for each in calls)
    assert sparse >= served.size(1) - 2  # of its steps, all that can be sparse
    for row, written in enumerate(expected.tolist()):
        answer = written[: written.index(end) + 1]  # the package goes on until all have ended
        assert dense[row, : len(answer)].tolist() == answer
        assert dense[row, len(answer) :].eq(end).all()
    assert torch.equal(served, dense)
    assert [accentor._tensor_to_text(row) for row in served] == accentor(texts)


def test_a_beam_finds_what_is_at_least_as_likely(accentor: Any) -> None:
    source = package.source(accentor, TEXTS[1])
    model = ours(accentor)
    one = beam_search(model, source, beam=1, length_penalty=0)
    four = beam_search(model, source, beam=4, length_penalty=0)
    assert torch.equal(one.tokens[:, 0], greedy(model, source))
    assert four.scores[0, 0] >= one.scores[0, 0] - 1e-4
