"""Translator: the texts and scores of decoding one by one, whatever comes together."""

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import reluctant
from reluctant.errors import ReluctantError
from reluctant.transformer import Transformer, Translator, beam_search, greedy, load
from reluctant.translation import translator as module
from reluctant.translation.segments import segments
from reluctant.translation.vocabulary import BOS, EOS, PAD, Vocabulary
from tests.translators import WORDS, learned, sentences, untrained

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")
MIXED = ["", *sentences(9), " \t", *sentences(3, seed=2), "Ünknown 東京 words\n?"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # products are small, and tests run side by side
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned(tmp_path_factory.mktemp("learned"))


@pytest.fixture(scope="module")
def translator(folder: Path) -> Translator:
    return Translator(folder, batch_size=3)


@pytest.fixture(scope="module")
def model(folder: Path) -> Transformer:
    return load(folder)


@pytest.fixture(scope="module")
def vocabulary(folder: Path) -> Vocabulary:
    return Vocabulary.load(folder)


def source_of(vocabulary: Vocabulary, text: str) -> Tensor:
    return torch.tensor([[*vocabulary.encode([text])[0], EOS]])


@pytest.mark.parametrize("engine", [False, True])
def test_greedy_texts_are_those_of_one_at_a_time(
    folder: Path, model: Transformer, vocabulary: Vocabulary, engine: bool
) -> None:
    found = Translator(folder, engine=engine, batch_size=4).translate(MIXED)
    for text, translation in zip(MIXED, found, strict=True):
        expected = ""
        if text.strip():
            expected = vocabulary.decode(greedy(model, source_of(vocabulary, text)).tolist())[0]
        assert translation == expected
    clean = sentences(30, seed=3)
    same = [a == b for a, b in zip(clean, Translator(folder).translate(clean), strict=True)]
    assert sum(same) > 15, "it has hardly learned anything: the rest proves little"


def test_beams_are_those_of_one_at_a_time(
    translator: Translator, model: Transformer, vocabulary: Vocabulary
) -> None:
    texts = [text for text in MIXED if text.strip()]
    options: dict[str, Any] = {"beam": 4, "length_penalty": 1.0}
    found = translator.translations(texts, best=3, **options)
    assert [each[0].text for each in found] == translator.translate(texts, **options)
    for text, translations in zip(texts, found, strict=True):
        tokens, scores = beam_search(
            model, source_of(vocabulary, text), early_stop=False, **options
        )
        assert [each.text for each in translations] == vocabulary.decode(tokens[0, :3].tolist())
        assert [each.score for each in translations] == pytest.approx(scores[0, :3].tolist(), 1e-4)
        assert [each.score for each in translations] == sorted(
            (each.score for each in translations), reverse=True
        )


@pytest.mark.parametrize("options", [{}, {"beam": 3, "best": 2, "length_penalty": 0.3}], ids=str)
def test_scores_are_the_models_probabilities(
    translator: Translator, model: Transformer, vocabulary: Vocabulary, options: dict[str, Any]
) -> None:
    """Against one plain forward pass in float64 over each translation by itself."""
    exact = load_double(model)
    texts = sentences(5, seed=4)
    for text, found in zip(texts, translator.translations(texts, **options), strict=True):
        assert len(found) == options.get("best", 1)
        for each in found:
            ids = [*(id_of(vocabulary)[token] for token in each.tokens), EOS]
            logits = exact(source_of(vocabulary, text), torch.tensor([[BOS, *ids[:-1]]]))[0]
            logits[:, PAD] = -torch.inf
            log_p = logits.log_softmax(-1)[range(len(ids)), ids].sum().item()
            assert each.log_probability == pytest.approx(log_p, abs=1e-3)
            penalty = ((5 + len(ids)) / 6) ** options.get("length_penalty", 0.6)
            assert each.score == pytest.approx(each.log_probability / penalty)
            assert vocabulary.decode([ids]) == [each.text]


def load_double(model: Transformer) -> Transformer:
    exact = Transformer(model.config).double().eval().requires_grad_(False)
    exact.load_state_dict(model.state_dict())
    return exact


def id_of(vocabulary: Vocabulary) -> dict[str, int]:
    return {vocabulary.token(id): id for id in range(len(vocabulary))}


LINES = st.lists(
    st.one_of(
        st.lists(st.sampled_from([*WORDS, ".", "?"]), min_size=1, max_size=6).map(" ".join),
        st.sampled_from(["", "  ", "\x07", "\u00a0"]),
        st.text(max_size=6),
    ),
    max_size=7,
)


@settings(deadline=None, max_examples=25)
@given(lines=LINES, size=st.integers(1, 4), beam=st.integers(1, 2))
def test_any_lines_together_or_alone(
    translator: Translator, lines: list[str], size: int, beam: int
) -> None:
    translator._batch_size = size
    done: list[int] = []
    together = translator.translate(lines, beam=beam, max_length=12, on_done=done.append)
    alone = [translator.translate([line], beam=beam, max_length=12)[0] for line in lines]
    assert together == alone
    assert sum(done) == len(lines)
    assert all(not text for line, text in zip(lines, together, strict=True) if not line.strip())


def test_a_blank_line_is_empty_and_certain(translator: Translator) -> None:
    (found,) = translator.translations(["\t"], beam=2, best=2)
    assert [(t.text, t.log_probability, t.score, t.tokens) for t in found] == [("", 0.0, 0.0, ())]
    assert translator.translations([]) == []


def test_a_long_line_is_its_sentences(folder: Path, vocabulary: Vocabulary) -> None:
    translator = Translator(folder, longest=14, batch_size=5)
    line = " ".join(each.capitalize() for each in sentences(12))
    lines = ["sun moon.", line, "", "tree house!"]
    done: list[int] = []
    found = translator.translate(lines, on_done=done.append)
    cut = segments(line, lambda text: len(vocabulary.encode([text])[0]) < 14)
    assert len(cut) > 4
    assert all(len(ids) < 14 for ids in vocabulary.encode(cut))
    assert found[1] == " ".join(translator.translate(cut))
    assert (found[0], found[2], found[3]) == ("sun moon.", "", "tree house!")
    assert sum(done) == len(lines)
    (best, second) = translator.translations([line], beam=2, best=2)[0]
    parts = translator.translations(cut, beam=2, best=2)
    for rank, whole in enumerate((best, second)):
        chosen = [part[rank] for part in parts]
        assert whole.text == " ".join(each.text for each in chosen)
        sum_of = math.fsum(each.log_probability for each in chosen)
        assert whole.log_probability == pytest.approx(sum_of, rel=1e-4)
        assert whole.tokens == tuple(token for each in chosen for token in each.tokens)


def test_a_table_of_positions_is_kept_to(tmp_path: Path) -> None:
    folder = learned(tmp_path, 40, positions="learned", max_positions=9)
    translator, vocabulary = Translator(folder), Vocabulary.load(folder)
    line = "sun moon tree house. River stone bird old cold sings."
    with pytest.raises(ReluctantError, match="positions"):
        greedy(load(folder), source_of(vocabulary, line))
    cut = segments(line, lambda text: len(vocabulary.encode([text])[0]) < 9)
    texts = list(filter(None, translator.translate(cut)))
    assert len(texts) > 1
    assert translator.translate([line]) == [" ".join(texts)]
    with pytest.raises(ReluctantError, match="max_length: expected 1 to 9"):
        translator.translate(["sun"], max_length=10)
    with pytest.raises(ReluctantError, match="room for at least one character"):
        Translator(folder, longest=2).translate(["東"])  # which is three bytes, and a space


@settings(max_examples=200)
@given(
    lengths=st.lists(st.integers(1, 40), max_size=30),
    size=st.integers(1, 8),
    positions=st.integers(1, 100),
)
def test_batches_are_bounded(lengths: list[int], size: int, positions: int) -> None:
    batches = module._batches(lengths, size, positions)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        widest = max(lengths[index] for index in batch)
        assert len(batch) <= size
        assert len(batch) == 1 or len(batch) * widest <= positions
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(flat)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.translate("one text"), "a list of sentences, got one text"),
        (lambda t: t.translate(["a", b"b"]), "each a str; got bytes"),
        (lambda t: t.translate(["a", "\udcff"]), "expected text, got '\\\\udcff'"),
        (lambda t: t.translate(["a"], beam=0), "a beam of at least 1"),
        (lambda t: t.translate(["a"], beam=2, length_penalty=math.nan), "length_penalty from 0 up"),
        (lambda t: t.translate(["a"], max_length=0), "max_length: expected at least 1, got 0"),
        (lambda t: t.translations(["a"], beam=2, best=3), "best from 1 to beam, got 3"),
        (lambda t: Translator("nowhere"), "a model's folder with a config.json, got nowhere"),
    ],
)
def test_refusals(translator: Translator, call: Any, message: str) -> None:
    with pytest.raises(ReluctantError, match=message):
        call(translator)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"longest": 1}, {"target_lang": "de"}])
def test_refused_options(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ReluctantError, match="expected"):
        Translator(folder, **options)


def test_what_is_stored_in_float16_is_computed_in_float32(tmp_path: Path) -> None:
    folder = learned(tmp_path, 40, torch.float16)
    model: Any = Translator(folder)._backend.model  # type: ignore[attr-defined]
    half = load(folder)
    assert half.linear.weight.dtype == torch.float16
    for name, weight in half.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.float())
        assert model.state_dict()[name].dtype == torch.float32
    texts = sentences(3)
    assert Translator(folder).translate(texts) == Translator(folder, engine=False).translate(texts)


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ReluctantError, match=r"pad, bos, eos = 0, 1, 2 .* got 0, 2, 1"):
        Translator(untrained(tmp_path / "ids", bos=2, eos=1))
    with pytest.raises(ReluctantError, match=r"of one size .* got 324 and 331 tokens"):
        Translator(untrained(tmp_path / "size", target_vocab=331, tied=False))
    (untrained(tmp_path / "words") / "tokenizer.json").unlink()
    with pytest.raises(ReluctantError, match=r"expected tokenizer\.json"):
        Translator(tmp_path / "words")


def test_plain_torch_needs_no_numba(folder: Path) -> None:
    code = f"""
import sys; sys.modules['numba'] = sys.modules['llvmlite'] = None
import reluctant.transformer as t
assert 'Translator' in dir(t) and 'tokenizers' not in sys.modules
print(t.Translator({str(folder)!r}, engine=False).translate(['sun moon.']))
try:
    t.Translator({str(folder)!r})
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "['sun moon.']"
    assert "pip install numba" in second


def test_names_the_extra_when_a_package_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ReluctantError, match=r"pip install 'reluctant\[translate\]'"):
        Translator(folder)


def test_no_other_lazy_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Translater'"):
        reluctant.transformer.Translater  # noqa: B018
