"""What a translator reads: folders, lines as they come, texts that are too long."""

import codecs
import io
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reluctant.errors import ReluctantError
from reluctant.translation import folder as module
from reluctant.translation.folder import find_model
from reluctant.translation.lines import lines_of, ready_lines
from reluctant.translation.segments import segments


def model_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_the_model_is_the_first_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RELUCTANT_MODEL", raising=False)
    monkeypatch.setattr(module, "_checkout", lambda: None)
    with pytest.raises(ReluctantError, match=r"(?s)reluctant train.*--model FOLDER.*kept/en-de"):
        find_model()
    (tmp_path / "kept" / "en-de").mkdir(parents=True)  # without a model
    with pytest.raises(ReluctantError, match="expected a model, got none"):
        find_model()
    checkout = model_in(tmp_path / "checkout" / "kept" / "en-de")
    monkeypatch.setattr(module, "_checkout", lambda: tmp_path / "checkout")
    assert find_model() == checkout
    (tmp_path / "kept" / "en-de" / "config.json").write_text("{}")
    assert find_model() == tmp_path / "kept" / "en-de"
    monkeypatch.setenv("RELUCTANT_MODEL", str(model_in(tmp_path / "named")))
    assert find_model() == tmp_path / "named"
    given = model_in(tmp_path / "given")
    assert find_model(given) == find_model(str(given)) == given


def test_what_is_named_has_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReluctantError, match=r"got .*: no config\.json in it"):
        find_model(tmp_path)
    monkeypatch.setenv("RELUCTANT_MODEL", "nowhere")
    with pytest.raises(ReluctantError, match="got nowhere from RELUCTANT_MODEL: there is none"):
        find_model()


def test_this_is_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[1]
    assert module._checkout() == root
    installed = tmp_path / "lib" / "reluctant" / "translation" / "folder.py"
    monkeypatch.setattr(module, "__file__", str(installed))
    assert module._checkout() is None


class Chunks(io.RawIOBase):
    """Hands out what a pipe would: one write after the other."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = list(chunks)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        chunk = self.chunks.pop(0) if self.chunks else b""
        buffer[: len(chunk)] = chunk
        return len(chunk)


@given(
    lines=st.lists(
        st.just(codecs.BOM_UTF8) | st.binary(max_size=5).map(lambda b: re.sub(rb"[\r\n]", b"", b))
    ),
    ends=st.booleans(),
    most=st.integers(1, 4),
    data=st.data(),
)
def test_lines_come_whole_however_they_are_cut(
    lines: list[bytes], ends: bool, most: int, data: st.DataObject
) -> None:
    text = b"\r\n".join(lines) + b"\r\n" * ends
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    places = [0, *cuts, len(text)]
    chunks = [text[a:b] for a, b in pairwise(places) if a < b]
    found = list(ready_lines(io.BufferedReader(Chunks(chunks)), most))
    assert all(1 <= len(some) <= most for some in found)
    # The mark that some programs begin a text with is no part of it; a later one is.
    expected = text.removeprefix(codecs.BOM_UTF8).replace(b"\r", b"").split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert [line for some in found for line in some] == expected


def test_a_line_is_given_before_the_next_is_asked_for() -> None:
    chunks = Chunks([b"one\ntw", b"o\nthree", b""])
    found = ready_lines(io.BufferedReader(chunks), 5)
    assert next(found) == [b"one"]
    assert chunks.chunks == [b"o\nthree", b""]
    assert list(found) == [[b"two"], [b"three"]]


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    text = "\ufeffone\u2028a\x0bb\x85\r\n\n\ufefflast\rone".encode()
    file = tmp_path / "text"
    file.write_bytes(text)
    expected = ["one\u2028a\x0bb\x85", "", "\ufefflast\rone"]
    assert lines_of(file) == expected
    streamed = [line.decode() for some in ready_lines(io.BytesIO(text), 9) for line in some]
    assert streamed == expected
    assert list(ready_lines(io.BytesIO(b"\xef\xbb\xbfalone"), 9)) == [[b"alone"]]
    file.write_bytes(b"")
    assert lines_of(file) == []


def test_a_file_that_is_no_text_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"one\n\nna\xefve\n")
    with pytest.raises(ReluctantError, match=r"something else in line 3 .*iconv"):
        lines_of(file)
    with pytest.raises(ReluctantError, match="expected a file of lines"):
        lines_of(tmp_path)


@given(text=st.text(st.sampled_from('ab .,!?。、\n"C'), max_size=80), most=st.integers(1, 30))
def test_segments_fit_and_lose_nothing(text: str, most: int) -> None:
    found = segments(text, lambda part: len(part) <= most)
    assert all(part and part == part.strip() and len(part) <= most for part in found)
    assert "".join("".join(found).split()) == "".join(text.split())
    if text.strip() and len(text.strip()) <= most:
        assert found == [text.strip()]


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ('He came. "Why?" he said. It was late.', 25, ['He came. "Why?" he said.', "It was late."]),
        ("He came. Late. He was late, and cold.", 30, ["He came. Late.", "He was late, and cold."]),
        ("Old, cold, small stones fall.", 20, ["Old, cold,", "small stones fall."]),
        ("old cold small stones fall", 15, ["old cold small", "stones fall"]),
        ("ほしがみえる。つきもみえる。", 8, ["ほしがみえる。", "つきもみえる。"]),
        ("abcdefg", 4, ["abc", "defg"]),
        ("It is 3.5 e.g. here. So it is.", 25, ["It is 3.5 e.g. here.", "So it is."]),
    ],
)
def test_where_a_text_is_cut(text: str, most: int, expected: list[str]) -> None:
    assert segments(text, lambda part: len(part) <= most) == expected
