"""Text as it is typed, and paragraphs taken apart into sentences."""

import re

from reluctant.translation.clean import normalise
from reluctant.translation.pairs import Pair

_TYPED = str.maketrans(
    {
        "‘": "'", "’": "'", "‚": "'", "‛": "'", "´": "'", "`": "'", "›": "'", "‹": "'",
        "“": '"', "”": '"', "„": '"', "‟": '"', "»": '"', "«": '"', "″": '"', "′": "'",
        "…": "...", "‐": "-", "‑": "-", "−": "-", "—": "–",
        "\u00ad": "", "\u200b": "", "\u200e": "", "\u200f": "", "\ufeff": "",
    }
)  # fmt: skip
_END = re.compile(r"""(?<=[.!?])["')]*\s+(?=["'(]*[A-ZÄÖÜ0-9])""")
# A full stop after these, after a single letter or a number ends no sentence.
_SHORT = {
    "abb", "abs", "allg", "art", "bspw", "bzgl", "bzw", "ca", "co", "dr", "eg", "engl", "etc",
    "evtl", "fig", "gen", "ggf", "ie", "inc", "inkl", "jr", "max", "min", "mind", "mr", "mrs",
    "ms", "nr", "prof", "sog", "st", "usw", "vgl", "vs",
}  # fmt: skip


def typed(text: str) -> str:
    """The text with the quotation marks, apostrophes and dots of a keyboard, on one line.

    The sources set these in different ways; one way is easier to learn.

    >>> typed("„Geht’s?“  …")
    '"Geht\\'s?" ...'
    """
    return re.sub(r""" +([,.;:!?])(?=[\s"')]|$)""", r"\1", normalise(text.translate(_TYPED)))


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph.

    >>> sentences("See the menu, e.g. Edit. Then press Enter.")
    ['See the menu, e.g. Edit.', 'Then press Enter.']
    """
    found, start = [], 0
    for gap in _END.finditer(text):
        last = re.sub(r"\W", "", text[start : gap.start()].rsplit(" ", 1)[-1]).lower()
        if last in _SHORT or len(last) == 1 or last.isdecimal():
            continue
        found.append(text[start : gap.end()].strip())
        start = gap.end()
    return [*found, text[start:].strip()]


def by_sentence(pair: Pair) -> list[Pair]:
    """The pairs of sentences of two paragraphs; the paragraphs, where they do not correspond.

    They do if there are as many on either side, and none is twice as long as its fellow.

    >>> by_sentence(Pair("Go on. Turn left.", "Gehen Sie weiter. Biegen Sie links ab."))
    [Pair(source='Go on.', target='Gehen Sie weiter.'), \
Pair(source='Turn left.', target='Biegen Sie links ab.')]
    """
    both = sentences(pair.source), sentences(pair.target)
    if len(both[0]) != len(both[1]):
        return [pair]
    parts = [Pair(*each) for each in zip(*both, strict=True)]
    return parts if all(_alike(len(p.source), len(p.target)) for p in parts) else [pair]


def _alike(one: int, other: int) -> bool:
    return max(one, other) + 10 <= 2 * (min(one, other) + 10)


def is_sentence(text: str) -> bool:
    """Whether it begins and ends as a sentence.

    >>> is_sentence("Here it is."), is_sentence("to be here."), is_sentence("Here")
    (True, False, False)
    """
    return re.fullmatch(r"""["']*[A-ZÄÖÜ0-9].*[.!?]["')]*""", text) is not None
