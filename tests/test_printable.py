"""What terminals and files get of text from elsewhere."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostile import LANGUAGES
from reluctant.files import json_line
from reluctant.printable import encodable, printable


@pytest.mark.parametrize("text", [*LANGUAGES, "क्\u200dष", "👩\u200d👧", "می\u200cخواهم", "e\u0301"])
def test_ordinary_text_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("space", ["\u00a0", "\u3000", "\u2009", "\u2028"])
def test_spaces_are_plain_ones(space: str) -> None:
    assert printable(f"l'eau{space}bleue") == "l'eau bleue"


@given(st.text(st.characters()))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert all(unicodedata.category(c)[0] != "C" or unicodedata.category(c) == "Cf" for c in shown)
    turns = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not turns & {unicodedata.bidirectional(c) for c in shown}
    assert not {"\u200e", "\u200f", "\u061c"} & set(shown)


def test_what_is_kept() -> None:
    assert printable("a\nb\tc", keep="\n") == "a\nb\ufffdc"


@given(st.text(st.characters()))
def test_all_can_be_encoded(text: str) -> None:
    assert encodable(text).encode().decode() == encodable(text)
    there = text.encode(errors="ignore").decode()
    assert [c for c in encodable(text) if c != "\ufffd"] == [c for c in there if c != "\ufffd"]


@given(st.dictionaries(st.text(), st.text()))
def test_a_line_of_json_is_printable_ascii(value: dict[str, str]) -> None:
    line = json_line(value)
    assert all(" " <= c <= "~" for c in line)
    assert json.loads(line) == value
