"""What is wrong with a pair of English and German, beyond what holds for any languages."""

import re
from collections import Counter
from collections.abc import Iterable

from reluctant.translation.clean import Limits, clean
from reluctant.translation.pairs import Pair

_PLAIN = re.compile(r"""["'(]*[A-Za-zÀ-ž0-9€$£][A-Za-zÀ-ž0-9 .,;:!?'"()–&/%€$£°+§×-]*""")
_END = re.compile(r"[.!?:]")
# Words that only one of the two languages has.
_ENGLISH = {"the", "of", "and", "to", "is", "for", "with", "that", "this", "from", "are", "you"}
_GERMAN = {
    "der", "das", "und", "ist", "für", "mit", "dass", "von", "sie", "nicht", "ein", "eine", "zu",
    "im", "auf", "werden", "wird", "dem", "den", "des", "sich", "er", "ich",
}  # fmt: skip
LIMITS = Limits(characters=500, ratio=2.5)


def fault(pair: Pair) -> str | None:
    """The first of these that is true, or none.

    "same": on both sides. "odd characters": others than letters, digits and plain punctuation.
    "unbalanced": brackets or double quotes. "one-sided end": only one side ends with a mark of
    punctuation. "wrong language": a side reads like the other language.

    >>> fault(Pair("Save as:", "Speichern unter"))
    'one-sided end'
    """
    if pair.source == pair.target:
        return "same"
    if not all(map(_PLAIN.fullmatch, pair)):
        return "odd characters"
    if any(side.count("(") != side.count(")") or side.count('"') % 2 for side in pair):
        return "unbalanced"
    if len({bool(_END.search(side[-3:])) for side in pair}) == 2:
        return "one-sided end"
    if _reads_as(pair.source, _GERMAN, _ENGLISH) or _reads_as(pair.target, _ENGLISH, _GERMAN):
        return "wrong language"
    return None


def _reads_as(text: str, one: set[str], other: set[str]) -> bool:
    words = set(text.lower().rstrip(".!?").split())
    return len(words & one) > 2 * len(words & other)


def good(pairs: Iterable[Pair]) -> tuple[list[Pair], Counter[str]]:
    """The pairs without fault that `clean` keeps, and counts: "read", "kept", dropped by what.

    >>> good([Pair("Yes.", "Ja."), Pair("OK", "OK")])
    ([Pair(source='Yes.', target='Ja.')], Counter({'read': 2, 'same': 1, 'kept': 1}))
    """
    counts: Counter[str] = Counter()
    sound = []
    for pair in pairs:
        found = fault(pair)
        counts["read"] += 1
        if found is None:
            sound.append(pair)
        else:
            counts[found] += 1
    kept, cleaned = clean(sound, LIMITS)
    return kept, counts + cleaned
