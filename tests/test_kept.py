"""The model in kept/: its exact German, with the engine and without, alone and in batches."""

import json
from pathlib import Path

import pytest
import torch

from reluctant.transformer import Translator, greedy, load
from reluctant.translation.pairs import read
from reluctant.translation.split import part_of
from reluctant.translation.vocabulary import EOS, Vocabulary
from tools.corpus.parts import SHARES
from tools.kept.margins import margins
from tools.kept.measure import SURE, SURE_SENTENCES, load_double

KEPT = Path(__file__).parents[1] / "kept" / "en-de"


@pytest.fixture(scope="module")
def exact() -> dict[str, str]:
    lines = (KEPT / "exact.tsv").read_text(encoding="utf-8").splitlines()
    found = dict(line.split("\t") for line in lines)
    assert len(found) == SURE_SENTENCES
    return found


@pytest.mark.parametrize("engine", [False, True])
def test_its_german_is_exactly_this(exact: dict[str, str], engine: bool) -> None:
    translator = Translator(KEPT, engine=engine)
    assert [translator.translate([each])[0] for each in exact] == list(exact.values())


def test_it_is_sure_of_these(exact: dict[str, str]) -> None:
    model, vocabulary = load(KEPT).float(), Vocabulary.load(KEPT)
    sources = [torch.tensor([[*ids, EOS]]) for ids in vocabulary.encode(list(exact))]
    targets = [greedy(model, source)[0] for source in sources]
    assert min(margins(load_double(model), sources, targets)) > SURE


def test_batches_say_what_one_by_one_says() -> None:
    """Of sentences that rounding cannot decide."""
    model, vocabulary = load(KEPT).float(), Vocabulary.load(KEPT)
    sentences = [pair.source for pair in read([KEPT / "test-general.tsv"])[0][:40]]
    sources = [torch.tensor([[*ids, EOS]]) for ids in vocabulary.encode(sentences)]
    targets = [greedy(model, source)[0] for source in sources]
    sure = margins(load_double(model), sources, targets)
    chosen = [s for s, margin in zip(sentences, sure, strict=True) if margin > 0.01]
    assert len(chosen) > 20
    alone = [Translator(KEPT, engine=False).translate([each])[0] for each in chosen[:5]]
    for engine in (False, True):
        translator = Translator(KEPT, engine=engine)
        together = translator.translate(chosen)
        assert together[:5] == alone
        assert together == [translator.translate([each])[0] for each in chosen]


def test_held_out_sentences_are_of_the_part_that_is_not_learned() -> None:
    sets = [read([KEPT / name])[0] for name in ("test-general.tsv", "test-help.tsv")]
    assert [len(pairs) for pairs in sets] == [1000, 1000]
    assert {part_of(pair.source, SHARES) for pairs in sets for pair in pairs} == {"test"}


def test_what_the_folder_holds() -> None:
    assert (KEPT / "model.safetensors").stat().st_size <= 40e6
    assert "GNU GENERAL PUBLIC LICENSE" in (KEPT / "LICENSE").read_text()
    card = (KEPT / "README.md").read_text(encoding="utf-8")
    for word in ("GPL-3.0-or-later", "a person confirms it", "BLEU", "chrF", "reluctant train"):
        assert word in card
    for name in ("general", "help"):
        assert name in card
    assert json.loads((KEPT / "config.json").read_text())["activation"] == "relu"
    sources = (KEPT / "SOURCES.md").read_text(encoding="utf-8")
    for package in ("trans-de-en", "libreoffice-help-de", "wesnoth"):
        assert package in sources
        assert list((KEPT / "notices").glob(f"{package}*"))
