"""Pairs without what would only teach a model mistakes."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from reluctant.errors import ReluctantError
from reluctant.translation.pairs import Pair

# What counts as white space, in a regular expression: all of Unicode's, and the control characters,
# C0 and C1. These stand here themselves: `tokenizers` reads \x80 as a byte, Python as a character.
SPACE = r"\s" + "\x00-\x1f\x7f-\x9f"
_SPACES = re.compile(f"[{SPACE}]+")
# "Ja." may stand for "Yes, I think it is." In a ratio of lengths both have so many more characters.
_SLACK = 10


@dataclass(frozen=True)
class Limits:
    """What a pair may be like.

    characters: the longest source or target.
    ratio: how much longer one may be than the other, both counted with ten characters more, so
        that short ones may differ as they do. A line of Chinese is a third of its English.

    Raises ReluctantError where no pair at all could be kept.

    >>> Limits(ratio=0.5)
    Traceback (most recent call last):
        ...
    reluctant.errors.ReluctantError: expected characters and a ratio of at least 1, got 500 and 0.5
    """

    characters: int = 500
    ratio: float = 4.0

    def __post_init__(self) -> None:
        if not (self.characters >= 1 and self.ratio >= 1):
            raise ReluctantError(
                "expected characters and a ratio of at least 1, got "
                f"{self.characters} and {self.ratio}"
            )


def normalise(text: str) -> str:
    """The text in Unicode's form NFC, each run of white space or control characters one space.

    None stands at either end. What is normalised already stays as it is.

    >>> normalise(" one\\u00a0two\\x07\\n")
    'one two'
    """
    return _SPACES.sub(" ", unicodedata.normalize("NFC", text)).strip(" ")


def clean(pairs: Iterable[Pair], limits: Limits = Limits()) -> tuple[list[Pair], Counter[str]]:
    """Normalise the pairs, and keep those that can be translations of each other.

    Gives the pairs kept, in order, and how many were "kept" or dropped. Each dropped pair counts
    once, under the first of these that is true:
        "empty": source or target is.
        "too long", "bad length ratio": by the limits.
        "duplicate": the same pair was there before.
        "untranslated": source and target are the same, and more than three words, which are
            more than a name.

    >>> pairs, counts = clean([Pair("one  two", "eins zwei"), Pair("one two", "eins zwei")])
    >>> pairs
    [Pair(source='one two', target='eins zwei')]
    >>> counts
    Counter({'kept': 1, 'duplicate': 1})
    """
    kept: list[Pair] = []
    seen: set[Pair] = set()
    counts: Counter[str] = Counter()
    for pair in pairs:
        normal = Pair(normalise(pair.source), normalise(pair.target))
        fault = _fault(normal, limits, seen)
        counts[fault or "kept"] += 1
        if fault is None:
            kept.append(normal)
            seen.add(normal)
    return kept, counts


def _fault(pair: Pair, limits: Limits, seen: set[Pair]) -> str | None:
    shorter, longer = sorted((len(pair.source), len(pair.target)))
    if not shorter:
        return "empty"
    if longer > limits.characters:
        return "too long"
    if longer + _SLACK > limits.ratio * (shorter + _SLACK):
        return "bad length ratio"
    if pair in seen:
        return "duplicate"
    if pair.source == pair.target and len(pair.source.split()) > 3:
        return "untranslated"
    return None
