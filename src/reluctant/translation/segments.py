"""A text that is too long for a model, cut where it hurts the least."""

import re
from collections.abc import Callable, Iterator, Sequence

from reluctant.errors import ReluctantError

_SENTENCE = re.compile(r"[.!?…]+[\"'”’»)\]]*\s+|[。！？]+[”’」』）]*")
_CLAUSE = re.compile(r"[,;:–—]\s+|[，、；：]")
_SPACE = re.compile(r"\s+")


def segments(text: str, fits: Callable[[str], bool]) -> list[str]:
    """The text in pieces that fit, in order, without white space at their ends.

    One that does not fit is cut in two, at the place nearest its middle: where a sentence ends and
    no small letter follows, else after a comma, semicolon, colon or dash, else at white space, else
    between two characters.

    Raises ReluctantError if not even one character fits.

    >>> segments("One two. Three four. Five, six.", lambda text: len(text) <= 12)
    ['One two.', 'Three four.', 'Five, six.']
    """
    text = text.strip()
    if not text or fits(text):
        return [text] if text else []
    for cuts in _cuts(text):
        if cuts:
            middle = min(cuts, key=lambda cut: abs(2 * cut - len(text)))
            return segments(text[:middle], fits) + segments(text[middle:], fits)
    raise ReluctantError(f"expected room for at least one character, {text!r} has too many tokens")


def _cuts(text: str) -> Iterator[Sequence[int]]:
    """Where it may be cut, the best places first."""
    yield [cut for cut in _ends(_SENTENCE, text) if not text[cut].islower()]
    yield _ends(_CLAUSE, text)
    yield _ends(_SPACE, text)
    yield range(1, len(text))


def _ends(pattern: re.Pattern[str], text: str) -> list[int]:
    return [match.end() for match in pattern.finditer(text) if match.end() < len(text)]
