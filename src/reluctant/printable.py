"""Text from elsewhere - of a model, a file, a user - before it reaches a terminal or a file."""

import re
import unicodedata

UNKNOWN = "\ufffd"
_SURROGATES = re.compile("[\ud800-\udfff]")
# Marks, embeddings, overrides and isolates: they turn the text around them, too.
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_NO_TEXT = frozenset({"Cc", "Cs", "Co", "Cn"})  # controls, surrogates, private use, unassigned
_SPACES = frozenset({"Zs", "Zl", "Zp"})


def printable(text: str, keep: str = "") -> str:
    """What a terminal may get: it obeys some characters, and those become U+FFFD.

    All spaces become a plain one. Joiners stay, without which Persian, Hindi and emoji would be
    others. keep: characters that stay whatever they are, such as a line feed.

    >>> printable("l\\u00a0eau \\x1b[31mred \\u202eback")
    'l eau �[31mred �back'
    >>> printable("a\\nb"), printable("a\\nb", keep="\\n")
    ('a�b', 'a\\nb')
    """
    return "".join(each if each in keep else _printed(each) for each in text)


def _printed(character: str) -> str:
    kind = unicodedata.category(character)
    if kind in _SPACES:
        return " "
    return UNKNOWN if kind in _NO_TEXT or character in _TURNS else character


def encodable(text: str) -> str:
    """What UTF-8 can say. Python makes surrogates, which it cannot, of bytes in arguments and names
    of files that are no UTF-8; they become U+FFFD.

    >>> encodable("caf\\udce9.txt")
    'caf�.txt'
    """
    return _SURROGATES.sub(UNKNOWN, text)
