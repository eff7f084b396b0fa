"""Sentences and phrases of a dictionary in the format of Ding.

An entry is a line `German :: English`. Both sides have sub-entries, `one | other`, which correspond
by position, and these alternatives, `one; other`, which all mean the same. Remarks stand in
`{..}`, `[..]`, `(..)` and `<..>`, abbreviations in `/../`; `sth./sb.` and `big/large` are choices.
"""

import re
from collections.abc import Iterator

from reluctant.translation.pairs import Pair
from tools.corpus.tidy import is_sentence, typed

WORDS = 3  # of the shortest phrase
_REMARK = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]|\([^()]*\)|<[^<>]*>")
_ABBREVIATION = re.compile(r"(?<!\S)/[^/ ]+/(?![^\s;,.])")
_CHOICE = re.compile(r"(?<![\w/])([^\W\d_]+)((?:/[^\W\d_]+)+)(?![\w/-])")
_MEANT = {
    "sth.": "something", "sb.": "somebody", "etw.": "etwas", "jd.": "jemand", "jdn.": "jemanden",
    "jdm.": "jemandem", "jds.": "jemandes", "jmd.": "jemand", "jmdn.": "jemanden",
    "jmdm.": "jemandem", "jmds.": "jemandes", "so.": "someone", "swh.": "somewhere",
}  # fmt: skip
_SHORT = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, _MEANT)) + r")(?!\w)")
_UNCLEAN = re.compile(r"[][{}()<>/|*#=_~\\^@§+]|\.\.\.|\.\.|(?<!\w)-|[;:,]$|,,")


def pairs(text: str) -> Iterator[Pair]:
    """Each English alternative with the German one at its place, or the last one before it.

    Sub-entries that do not correspond are left out.

    >>> [*pairs("Haus {n} | Mein Haus!; Mein Heim! :: house | My home (is) my castle!")]
    [Pair(source='house', target='Haus'), Pair(source='My home my castle!', target='Mein Haus!')]
    """
    for line in text.splitlines():
        german, separator, english = line.partition(" :: ")
        if not separator or line.startswith("#"):
            continue
        sides = [side.split(" | ") for side in (english, german)]
        if len(sides[0]) != len(sides[1]):
            continue
        for ours, theirs in zip(*sides, strict=True):
            sources, targets = alternatives(ours), alternatives(theirs)
            for place, source in enumerate(sources):
                if targets:
                    yield Pair(source, targets[min(place, len(targets) - 1)])


def alternatives(text: str) -> list[str]:
    """Those of a sub-entry, without remarks.

    >>> alternatives("jdm. etw. geben {vt} [ugs.]; jdn. beschenken (mit etw.)")
    ['jemandem etwas geben', 'jemanden beschenken']
    """
    before = ""
    while before != text:  # remarks in remarks
        before, text = text, _REMARK.sub(" ", text)
    text = _SHORT.sub(lambda found: _MEANT[found[0]], _ABBREVIATION.sub(" ", text))
    return [found for each in text.split(";") if (found := typed(each))]


def choose(text: str) -> str:
    """The first of each choice between words.

    >>> choose("a big/large house")
    'a big house'
    """
    return _CHOICE.sub(r"\1", text)


def sort(found: Iterator[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Full sentences, and phrases of three English words or more. What is not clean is left out.

    A sentence in which something had to be chosen is with the phrases: it may not be right.

    >>> sort(iter([Pair("Try it/this.", "Versuch es."), Pair("He is ill.", "Er ist krank.")]))
    ([Pair(source='He is ill.', target='Er ist krank.')], \
[Pair(source='Try it.', target='Versuch es.')])
    """
    general, phrases = [], []
    for pair in found:
        chosen = Pair(*map(choose, pair))
        if any(_UNCLEAN.search(side) for side in chosen):
            continue
        whole = [is_sentence(side) for side in chosen]
        if all(whole) and chosen == pair:
            general.append(pair)
        elif all(whole) or (len(chosen.source.split()) >= WORDS and not _ends(chosen)):
            phrases.append(chosen)
    return general, phrases


def _ends(pair: Pair) -> bool:
    return any(side[-1] in ".!?" for side in pair)
