"""Cleaning: what is kept is normal and plausible, what is dropped is counted."""

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reluctant.errors import ReluctantError
from reluctant.translation.clean import Limits, clean, normalise
from reluctant.translation.pairs import Pair

texts = st.text(st.sampled_from("ab \t\u00a0\u0301é\u2028\x00"), max_size=12)


def test_all_white_space_and_control_characters_become_one_space() -> None:
    # independent of regular expressions: by Unicode's own classes
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        blank = character.isspace() or unicodedata.category(character) in ("Cc", "Zs", "Zl", "Zp")
        assert (normalise(f"{character}x{character}{character}y") == "x y") == blank, hex(code)


@settings(deadline=None)
@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    normal = normalise(text)
    assert normalise(normal) == normal == unicodedata.normalize("NFC", normal)
    assert normal.split() == normal.split(" ") or not normal


@pytest.mark.parametrize(
    ("source", "target", "fault"),
    [
        ("a", "b", "kept"),
        (" \x07", "b", "empty"),
        ("a", "\u2003", "empty"),
        ("", "b" * 501, "empty"),
        ("a" * 500, "b" * 500, "kept"),
        ("a" * 300, "b" * 501, "too long"),
        ("a" * 501, "b", "too long"),
        ("Ja.", "Yes, that is what I think, too.", "kept"),
        ("Ja.", "b" * 42, "kept"),
        ("Ja.", "b" * 43, "bad length ratio"),
        ("a" * 43, "Ja.", "bad length ratio"),
        ("one two three four", "one two  three four", "untranslated"),
        ("New York City", "New York City", "kept"),
        ("one two three four", "One two three four", "kept"),
    ],
)
def test_why_a_pair_is_dropped(source: str, target: str, fault: str) -> None:
    kept, counts = clean([Pair(source, target)])
    assert counts == {fault: 1}
    assert len(kept) == (fault == "kept")


def test_duplicates_are_found_after_normalising() -> None:
    pairs = [Pair("e\u0301 a", "b"), Pair("é  a", "b "), Pair("é a", "c"), Pair("b", "é a")]
    kept, counts = clean(pairs)
    assert kept == [Pair("é a", "b"), Pair("é a", "c"), Pair("b", "é a")]
    assert counts == {"kept": 3, "duplicate": 1}


def test_limits_are_the_callers() -> None:
    pairs = [Pair("a" * 9, "b" * 9), Pair("a" * 20, "b" * 40), Pair("a", "b")]
    assert clean(pairs, Limits(characters=8))[1] == {"too long": 2, "kept": 1}
    assert clean(pairs, Limits(ratio=1.5))[1] == {"bad length ratio": 1, "kept": 2}
    assert clean(pairs, Limits(ratio=float("inf")))[1] == {"kept": 3}
    for characters, ratio in [(0, 4), (500, 0.9), (500, float("nan"))]:
        with pytest.raises(ReluctantError, match="of at least 1"):
            Limits(characters, ratio)


@settings(deadline=None)
@given(st.lists(st.builds(Pair, texts, texts)))
def test_every_pair_counts_once_and_cleaning_twice_keeps_all(pairs: list[Pair]) -> None:
    kept, counts = clean(iter(pairs))
    assert counts.total() == len(pairs)
    assert counts["kept"] == len(kept) == len(set(kept))
    assert clean(kept) == (kept, {"kept": len(kept)} if kept else {})
