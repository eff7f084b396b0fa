"""From a text to sequences of tokens, side by side in batches."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from reluctant.lab.inspect.subject import Item, Subject
from reluctant.lab.inspect.text import Text

SENTENCES = 3  # lines at the beginning of a text that are looked at one by one
_BLOCK = 64  # sequences that are sorted by length among each other
_POSITIONS = 1024  # of a batch, with padding: bounds the memory
_SIZE = 32  # sequences of a batch


class Items:
    """The sequences of a text, in order.

    limit: no sequence begins after so many tokens of the text; None: all do. limited: whether there
    was more. first: the first lines that have tokens.
    """

    def __init__(self, subject: Subject, text: Text, limit: int | None) -> None:
        self._subject, self._text, self._limit = subject, text, limit
        self._tokens, self.limited, self.first = 0, False, list[str]()

    def __iter__(self) -> Iterator[Item]:
        before = 0, 0
        for pair in self._text.pairs():
            if self._full():
                return
            now = self._text.bytes, self._text.replaced
            read, before = (now[0] - before[0], now[1] - before[1]), now
            sources = self._subject.encode(pair.source)
            if sources and len(self.first) < SENTENCES:
                self.first.append(pair.source)
            if pair.target is not None:  # the pieces of the two do not go together
                items = [Item(ids, self._subject.given(pair.target)) for ids in sources[:1]]
            else:
                items = [Item(ids) for ids in sources]
            for item in items:
                if self._full():
                    return
                self._tokens += len(item.source)
                yield item._replace(bytes=read[0], replaced=read[1])
                read = 0, 0  # a line counts with the first of its pieces

    def _full(self) -> bool:
        self.limited = self._limit is not None and self._tokens >= self._limit
        return self.limited


def blocks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """So many at a time that there are some of like length among them."""
    iterator = iter(items)
    while block := list(islice(iterator, _BLOCK)):
        yield block


def batches(items: Sequence[Item], *, alone: bool) -> Iterator[list[Item]]:
    """From short to long, with few positions of padding. alone: one by one, in order.

    >>> items = [Item([1] * length) for length in (700, 2, 400, 3)]
    >>> [[len(item.source) for item in batch] for batch in batches(items, alone=False)]
    [[2, 3], [400], [700]]
    """
    if alone:
        yield from ([item] for item in items)
        return
    batch: list[Item] = []
    for item in sorted(items, key=lambda item: (len(item.source), len(item.target))):
        longest = max(len(side) for each in (*batch, item) for side in each.sides)
        if batch and (len(batch) == _SIZE or (len(batch) + 1) * longest > _POSITIONS):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
