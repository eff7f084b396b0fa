"""A vocabulary: lossless for any text, no special token out of text, the same file each time."""

import functools
import json
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reluctant.errors import ReluctantError
from reluctant.translation.clean import normalise
from reluctant.translation.vocabulary import BOS, EOS, PAD, UNK, Vocabulary

tokenizers = pytest.importorskip("tokenizers")
EN, DE = "the dog runs fast over low hills", "der Hund läuft schnell über niedrige Hügel"
TEXT = [f"{EN[i % 9 :]}, {DE[: i * i % 40]}, {i}!" for i in range(200)]
KINDS = ["bpe", "unigram"]


@functools.cache
def trained(kind: str) -> Vocabulary:
    return Vocabulary.train(TEXT, 340, kind)


def there_and_back(vocabulary: Vocabulary, text: str) -> str:
    return vocabulary.decode(vocabulary.encode([text]))[0]


def normal(text: str) -> str:
    return normalise(text.replace("▁", " "))  # which marks the spaces


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs", "Cn"])) | st.text("dog läuft▁e\u0301 ,")
)
def test_any_text_comes_back(kind: str, text: str) -> None:
    assert there_and_back(trained(kind), text) == normal(text)


@pytest.mark.parametrize("kind", KINDS)
def test_every_character_comes_back(kind: str) -> None:
    all_of_them = map(chr, range(sys.maxunicode + 1))
    known = [c for c in all_of_them if unicodedata.category(c) not in ("Cs", "Cn")]
    for start in range(0, len(known), 5000):
        text = "x".join(known[start : start + 5000])
        assert there_and_back(trained(kind), text) == normal(text)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_text_are_text(kind: str, tmp_path: Path) -> None:
    text = ["<pad> <s>dog</s> <unk> <0x41> </s>", "<s>"]
    taught = Vocabulary.train(text * 50, 320, kind)  # even if the text is full of them
    taught.save(tmp_path)
    for vocabulary in (trained(kind), taught, Vocabulary.load(tmp_path)):
        ids = vocabulary.encode(text)
        assert min(id for row in ids for id in row) > UNK
        tokens = [vocabulary.token(id) for row in ids for id in row]
        assert "<0x41>" not in tokens
        assert vocabulary.decode(ids) == text


def test_special_ids_are_left_out() -> None:
    vocabulary = trained("bpe")
    dog, runs = vocabulary.encode(["dog", "runs"])
    row = [BOS, *dog, UNK, *runs, EOS, PAD, PAD, -1]
    assert vocabulary.decode([row, [], [EOS]]) == ["dog runs", "", ""]
    assert vocabulary.encode([]) == []
    assert vocabulary.encode(["", " \n"]) == [[], []]


def test_known_words_are_few_tokens_and_digits_and_punctuation_stand_alone() -> None:
    vocabulary = trained("bpe")
    assert len(vocabulary) == 340
    tokens = [vocabulary.token(id) for id in vocabulary.encode(["hills over, 123!"])[0]]
    assert tokens[-6:] == [",", "▁", "1", "2", "3", "!"]
    assert len(tokens) <= 9
    assert vocabulary.decode(vocabulary.encode(["hills over, 123!"])) == ["hills over, 123!"]
    assert [vocabulary.token(id) for id in (PAD, BOS, EOS, UNK)] == [
        "<pad>",
        "<s>",
        "</s>",
        "<unk>",
    ]
    assert [vocabulary.token(4 + byte) for byte in (0, 255)] == ["<0x00>", "<0xFF>"]


@pytest.mark.parametrize("kind", KINDS)
def test_loads_what_was_saved(kind: str, tmp_path: Path) -> None:
    vocabulary = trained(kind)
    vocabulary.save(tmp_path / "new" / "folder")
    back = Vocabulary.load(tmp_path / "new" / "folder")
    text = [*TEXT, "日本 <s>"]
    assert back.encode(text) == vocabulary.encode(text)
    assert len(back) == len(vocabulary)
    back.save(tmp_path)
    files = [folder / "tokenizer.json" for folder in (tmp_path, tmp_path / "new" / "folder")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_same_sentences_give_the_same_file(tmp_path: Path) -> None:
    # in another process, where hashes are others, and another order; rare characters are tied, too
    text = [*TEXT, *(f"{chr(0x4E00 + i)} rare" for i in range(300))]
    Vocabulary.train(text, 400).save(tmp_path / "one")
    code = (
        "import json, sys; from reluctant.translation.vocabulary import Vocabulary;"
        "Vocabulary.train(json.load(sys.stdin), 400).save(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "two")]
    run = subprocess.run(
        command, input=json.dumps(text[::-1]), capture_output=True, text=True, check=True
    )
    assert run.stdout + run.stderr == ""
    files = [tmp_path / name / "tokenizer.json" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_many_characters_do_not_crowd_out_the_words(kind: str) -> None:
    rare = "".join(map(chr, range(0x4E00, 0x5E00)))
    vocabulary = Vocabulary.train([rare, *TEXT * 10], 400, kind)
    assert len(vocabulary) <= 400
    assert there_and_back(vocabulary, rare) == rare
    if kind == "bpe":  # of so little text a unigram vocabulary has hardly more than characters
        assert len(vocabulary.encode([EN])[0]) < len(EN) / 2


def test_a_character_seen_once_in_a_long_text_is_spelt_as_bytes() -> None:
    vocabulary = Vocabulary.train([*TEXT * 9, "Ŋ"], 340)
    assert [vocabulary.token(i) for i in vocabulary.encode(["Ŋ"])[0]] == ["▁", "<0xC5>", "<0x8A>"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["a", "日" * 3000, "low lower"])
def test_too_little_text_gives_a_smaller_vocabulary(kind: str, text: str) -> None:
    vocabulary = Vocabulary.train([text], 8000, kind)
    assert 260 < len(vocabulary) < 300
    assert there_and_back(vocabulary, "anything 東") == "anything 東"


def test_refuses() -> None:
    with pytest.raises(ReluctantError, match=r"'bpe' or 'unigram'.*'words'"):
        Vocabulary.train(TEXT, 400, "words")
    with pytest.raises(ReluctantError, match=r"at least 300.* 299"):
        Vocabulary.train(TEXT, 299)
    with pytest.raises(ReluctantError, match="no text"):
        Vocabulary.train(["", "\t"], 400)
    vocabulary = trained("bpe")
    for call in (vocabulary.encode, lambda text: Vocabulary.train(text, 400)):
        with pytest.raises(ReluctantError, match="surrogates"):
            call(["\ud800"])
    for id in (-1, 340):
        with pytest.raises(ReluctantError, match=f"from 0 to 339, got {id}"):
            vocabulary.token(id)
    with pytest.raises(ReluctantError, match="from 0 to 339, got 340"):
        vocabulary.decode([[5], [340, 2]])


@pytest.mark.parametrize(
    "content", [None, b"", b"\xff", b"{}", b"[1]", b'{"model": {"type": "BPE"}}']
)
def test_refuses_a_file_that_is_none(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ReluctantError, match=r"expected tokenizer\.json"):
        Vocabulary.load(tmp_path)


def gap(values: dict[str, Any]) -> None:
    values["model"]["vocab"]["low"] = 10**6


def others(values: dict[str, Any]) -> None:
    vocab = values["model"]["vocab"]
    vocab["<s>"], vocab["</s>"] = vocab["</s>"], vocab["<s>"]


@pytest.mark.parametrize("change", [gap, others])
def test_refuses_ids_of_another_kind(change: Any, tmp_path: Path) -> None:
    trained("bpe").save(tmp_path)
    file = tmp_path / "tokenizer.json"
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))
    with pytest.raises(ReluctantError, match="with ids from 0 on, the first of them <pad>"):
        Vocabulary.load(tmp_path)


def test_of_a_strangers_file_no_special_token_is_found_and_nothing_is_cut(tmp_path: Path) -> None:
    trained("bpe").save(tmp_path)
    file = tmp_path / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>", "<unk>"])
    template = tokenizers.processors.TemplateProcessing
    tokenizer.post_processor = template(single="<s> $0", special_tokens=[("<s>", BOS)])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=40)
    tokenizer.save(str(file))
    text = ["<s> the dog runs </s>"]
    assert Vocabulary.load(tmp_path).encode(text) == trained("bpe").encode(text)


def test_names_the_command_when_tokenizers_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ReluctantError, match=r"pip install 'reluctant\[translate\]'"):
        Vocabulary.train(TEXT, 400)
    with pytest.raises(ReluctantError, match=r"pip install 'reluctant\[translate\]'"):
        Vocabulary.load(tmp_path)
