"""Paragraphs of a manual in HTML, whose elements have the same ids in each language."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser

from reluctant.translation.pairs import Pair
from tools.corpus.tidy import by_sentence, typed

_TAGS = {"p", "h1", "h2", "h3", "h4", "h5", "h6"}
# By these, commands of a menu say that they open a dialog; before a new sentence, one is its end.
_DOTS = re.compile(r"(?<=\w)\.\.(?=\. +[A-ZÄÖÜ])|(?<=\w)\.\.\.")
_VOID = {"br", "img", "input", "wbr", "hr", "meta", "link"}


class _Paragraphs(HTMLParser):
    """The texts by id. A paragraph that differs by system or program is read as by default."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: defaultdict[str, list[str]] = defaultdict(list)
        self._id = ""
        self._tag = ""
        self._text: list[str] = []
        self._hidden: list[bool] = []
        self._switches = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in _TAGS:
            is_code = "code" in values.get("class", "")
            wanted = re.match(r"(par|hd)_id", values.get("id", "")) and not is_code
            self._id, self._tag = (values["id"], tag) if wanted else ("", "")
            self._text, self._hidden, self._switches = [], [], 0
        elif self._id and tag in _VOID:
            self._text.append(" ")
        elif self._id:
            kind = values.get("class", "")
            self._switches += kind in {"switch", "switchinline"}
            default = values.get("id", "").startswith("default")
            self._switches -= default
            self._hidden.append("hidden" in values and not default)

    def handle_endtag(self, tag: str) -> None:
        if self._id and tag == self._tag:
            text = typed("".join(self._text))
            # a switch without a default leaves a hole
            self.found[self._id].append("" if self._switches else text)
            self._id = ""
        elif self._hidden and tag not in _VOID:
            self._hidden.pop()

    def handle_data(self, data: str) -> None:
        if self._id and not any(self._hidden):
            self._text.append(data)


def paragraphs(page: str) -> dict[str, list[str]]:
    """The texts of a page by the ids of their elements, in order; code is left out.

    >>> paragraphs('<p id="par_id1">Press <b>Enter</b> &amp; wait.</p><p>Footer</p>')
    {'par_id1': ['Press Enter & wait.']}
    """
    parser = _Paragraphs()
    parser.feed(page)
    parser.close()
    return dict(parser.found)


def pairs(english: Mapping[str, str], german: Mapping[str, str]) -> Iterator[Pair]:
    """Sentences of pages, which are given by name, whose elements have the same id.

    The dots after the names of commands are left out.
    """
    for name in sorted(english.keys() & german.keys()):
        ours, theirs = paragraphs(english[name]), paragraphs(german[name])
        for key, texts in ours.items():
            others = theirs.get(key, [])
            if len(texts) == len(others):
                for pair in map(Pair, texts, others):
                    if all(pair):
                        yield from by_sentence(Pair(*(_DOTS.sub("", side) for side in pair)))
