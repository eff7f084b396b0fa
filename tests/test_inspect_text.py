"""Texts of all kinds, piece by piece."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostile import HOSTILE, LANGUAGES
from reluctant.errors import ReluctantError
from reluctant.lab.inspect import text as module
from reluctant.lab.inspect.text import File, Lines
from reluctant.lab.inspect.words import Words
from reluctant.translation.vocabulary import Vocabulary


def sources(path: Path, target: Path | None = None) -> list[str]:
    return [pair.source for pair in File(path, target).pairs()]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n"))))
def test_a_file_is_its_lines(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_bytes("\n".join(lines).encode())
    file = File(path)
    assert [pair.source for pair in file.pairs()] == [
        each
        for i, line in enumerate(lines)
        if (each := line.removeprefix("\ufeff") if i == 0 else line).strip()
    ]
    assert (file.replaced, file.bytes) == (0, path.stat().st_size) or not lines


@settings(deadline=None, max_examples=60)
@given(st.text(st.sampled_from("aé東👩 \t"), max_size=200), st.integers(8, 40))
def test_a_long_line_comes_in_pieces(
    tmp_path_factory: pytest.TempPathFactory, line: str, size: int
) -> None:
    """Without a character cut in two, or anything lost."""
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_bytes(line.encode() + b"\nend")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", size)
        file = File(path)
        with path.open("rb") as opened:
            found = list(file._pieces(opened))
    assert "".join(text for text, _ in found[:-1]) == line
    assert [begins for _, begins in found] == [True, *[False] * (len(found) - 2), True]
    assert file.replaced == 0
    assert all(len(text.encode()) <= size for text, _ in found)


def test_the_lines_are_of_fifty_languages() -> None:
    assert len(set(LANGUAGES)) >= 50


@pytest.mark.parametrize("line", HOSTILE)
def test_hostile_lines_stay_as_they_are(tmp_path: Path, line: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(f"first\n{line}\n".encode())
    assert sources(path) == ["first", line][: 2 if line.strip() else 1]


def test_bytes_that_are_no_text_are_replaced_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xff\xfeok\n\xef\xbf\xbd stays\n\xc3")
    file = File(path)
    assert [pair.source for pair in file.pairs()] == ["\ufffd\ufffdok", "\ufffd stays", "\ufffd"]
    assert file.replaced == 3


def test_a_mark_and_carriage_returns_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\r\n")
    assert sources(path) == ["one", "two"]


def pipe(content: bytes) -> Path:
    """Its end to be read, as `<(...)` of a shell is."""
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    return Path(f"/dev/fd/{reading}")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_pipe_is_read_as_a_file_is(tmp_path: Path, mark: bytes) -> None:
    content = mark + "\n".join(HOSTILE * 9).encode()
    (tmp_path / "text").write_bytes(content)
    file = File(pipe(content))
    assert [pair.source for pair in file.pairs()] == sources(tmp_path / "text")
    assert (file.size, file.bytes) == (None, len(content))


def test_a_pipe_beside_a_target_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("one\n")
    for pair in (pipe(b"one\n"), tmp_path / "text"), (tmp_path / "text", pipe(b"one\n")):
        with pytest.raises(ReluctantError, match=r"/dev/fd/\d+, which can be read once"):
            File(*pair)


def test_a_text_alone_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_text("one\ntwo\n")
    monkeypatch.setattr(module, "_lines", None)
    assert sources(tmp_path / "text") == ["one", "two"]


@pytest.mark.parametrize("line", ["a" * 13, "aé" * 9, "a"])
def test_a_long_first_line_after_a_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(module, "PIECE", 8)
    for mark in ("", "\ufeff"):
        (tmp_path / "text").write_text(f"{mark}{line}\nend")
        assert "".join(sources(tmp_path / "text")) == f"{line}end"
    (tmp_path / "text").write_text("\ufeff")
    assert sources(tmp_path / "text") == []


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "text").touch()
    assert sources(tmp_path / "text") == []


def test_lines_beside_lines(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("one\n\nthree\nfour")
    target.write_text("eins\nzwei\n \nvier\n")
    pairs = list(File(source, target).pairs())
    assert pairs == [("one", "eins"), ("four", "vier")]
    target.write_text("eins\n")
    with pytest.raises(ReluctantError, match=r"as many lines .* got 1 and 4"):
        File(source, target)


def test_of_a_long_line_beside_another_the_first_piece_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", 8)
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("one two three four\nfive\n")
    target.write_text("eins\nfünf\n")
    assert list(File(source, target).pairs()) == [("one two ", "eins"), ("five", "fünf")]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ReluctantError, match="expected a file of lines"):
            File(path)


def test_lines_that_are_there() -> None:
    text = Lines(["one", "", "a\ud800b"], ["eins", "x", "y"])
    assert list(text.pairs()) == [("one", "eins"), ("a\ufffdb", "y")]
    assert text.replaced == 1
    with pytest.raises(ReluctantError, match="put it in a list"):
        Lines("one")
    with pytest.raises(ReluctantError, match="a target for each line"):
        list(Lines(["one"], []).pairs())


@pytest.mark.parametrize("text", ["new 東京 newest", "👩‍👩‍👧", "a <0xE6> b", "</s>", "l'été, 1984"])
def test_our_words_say_the_text(text: str) -> None:
    vocabulary = Vocabulary.train(["new newer newest </s> <0xE6>"] * 9, size=330)
    words, ids = Words.of_vocabulary(vocabulary), vocabulary.encode([text])[0]
    if "<0xE6>" not in text:  # which a byte is written like
        assert words.text(ids) == f" {text}"
    assert words.text([1, *ids[:1]]).startswith("<s>")
    assert words.piece(10**6) == "<1000000>"
    assert words.piece(4 + 0xE6) == "<0xE6>"


class Tokenizer:
    """A tokenizer of which only the names are asked for."""

    def __init__(self, names: list[str], special: list[str] | None = None) -> None:
        self._names, self.all_special_tokens = names, special or []

    def get_vocab(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self._names)}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self._names[id] for id in ids]


def test_words_of_other_vocabularies() -> None:
    pieces = Words.of_tokenizer(Tokenizer(["[CLS]", "new", "##est", "##"], ["[CLS]"]))
    assert (pieces.text([0, 1, 2]), pieces.piece(2)) == ("[CLS] newest", "est")
    # é is C3 A9, for which Ã and © stand
    spelt = Words.of_tokenizer(Tokenizer(["Ġl", "Ã", "©", "<|é|>", "Ċ"], ["<|é|>"]))
    assert (spelt.text([0, 1, 2, 3, 4]), spelt.piece(1)) == (" lé<|é|>\n", "<0xC3>")
    spaced = Words.of_tokenizer(Tokenizer(["▁the", "re", "</s>"]))
    assert spaced.text([0, 1, 0, 2]) == " there the</s>"
    plain = Words.of_tokenizer(Tokenizer(["a", "b"]))
    assert plain.text([0, 1]) == "a b"
