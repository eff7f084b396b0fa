"""The text that goes through a model: read piece by piece, so that its length is all the same."""

from codecs import BOM_UTF8  # some programs begin a text with it
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from reluctant.errors import ReluctantError
from reluctant.printable import UNKNOWN, encodable

PIECE = 2**14  # bytes of a line that are read at once
_BLOCK = 2**20  # bytes that are read at once to count lines
_BLANKS = b" \t\r\v\f"


class Pair(NamedTuple):
    """A line of the text, or a piece of a long one; and the line of the target, if there is one."""

    source: str
    target: str | None


class Text(Protocol):
    """Lines, one after the other.

    name: what it is called. size: bytes in all, None if not known. bytes: read so far. replaced:
    what was no text and became U+FFFD, so far.
    """

    name: str
    size: int | None
    bytes: int
    replaced: int

    def pairs(self) -> Iterator[Pair]:
        """The lines that are not blank."""


class Lines:
    """A text of lines that are there already.

    >>> [pair.source for pair in Lines(["one", " ", "two"]).pairs()]
    ['one', 'two']
    """

    def __init__(
        self, lines: Iterable[str], targets: Iterable[str] | None = None, name: str = "lines"
    ) -> None:
        if isinstance(lines, str) or isinstance(targets, str):
            raise ReluctantError("expected lines, got one text: put it in a list")
        self.name, self.bytes, self.replaced = name, 0, 0
        self.size: int | None = None
        self._lines, self._targets = lines, targets

    def pairs(self) -> Iterator[Pair]:
        if self._targets is None:
            both: Iterator[tuple[str, str | None]] = ((line, None) for line in self._lines)
        else:
            both = _strictly(self._lines, self._targets)
        for source, target in both:
            if source.strip() and (target is None or target.strip()):
                pair = Pair(self._text(source), None if target is None else self._text(target))
                self.bytes += len(pair.source.encode())
                yield pair

    def _text(self, line: str) -> str:
        """Without surrogates, which no text has."""
        clean = encodable(line)
        self.replaced += clean.count(UNKNOWN) - line.count(UNKNOWN)
        return clean


def _strictly(lines: Iterable[str], targets: Iterable[str]) -> Iterator[tuple[str, str]]:
    try:
        yield from zip(lines, targets, strict=True)
    except ValueError as error:
        raise ReluctantError(f"expected a target for each line: {error}") from error


class File:
    """A text in a file, in UTF-8; with `target`, the lines of another one beside it.

    It is read once, and so may be a pipe; the two of a pair are read once more before, to count
    their lines. Long lines come in pieces of at most PIECE bytes; beside a target only the first
    one counts.

    Raises ReluctantError for a file that cannot be read, and for two with different numbers of
    lines, or of which one is a pipe.
    """

    def __init__(self, path: Path, target: Path | None = None) -> None:
        self.name, self.bytes, self.replaced = path.name, 0, 0
        self._path, self._target = path, target
        self.size = _size(path)
        if target is not None:
            self._expect_as_many(target)

    def _expect_as_many(self, target: Path) -> None:
        for path, size in ((self._path, self.size), (target, _size(target))):
            if size is None:
                raise ReluctantError(
                    f"expected files, as two texts beside each other are read twice; got {path}, "
                    "which can be read once: write it to a file first"
                )
        there, beside = _lines(self._path), _lines(target)
        if there != beside:
            raise ReluctantError(
                f"expected as many lines in {target} as in {self._path}, got {beside} and {there}"
            )

    def pairs(self) -> Iterator[Pair]:
        self.bytes = 0
        with self._path.open("rb") as source:
            if self._target is None:
                for text, _ in self._pieces(source):
                    if text.strip():
                        yield Pair(text, None)
                return
            with self._target.open("rb") as target:
                firsts = (self._firsts(file, counts=file is source) for file in (source, target))
                for one, other in zip(*firsts, strict=True):
                    if one.strip() and other.strip():
                        yield Pair(one, other)

    def _firsts(self, file: BinaryIO, *, counts: bool) -> Iterator[str]:
        """Of each line, also a blank one, the first piece."""
        return (text for text, begins in self._pieces(file, counts=counts) if begins)

    def _pieces(self, file: BinaryIO, *, counts: bool = True) -> Iterator[tuple[str, bool]]:
        """Pieces of lines, and whether each begins one."""

        def read(most: int) -> bytes:
            found = file.readline(most)
            self.bytes += len(found) if counts else 0
            return found

        raw, begins = _without_mark(read), True
        while raw:
            ends = raw.endswith(b"\n")
            cut = len(raw) if ends or len(raw) < PIECE else _cut(raw)
            piece, rest = raw[:cut].removesuffix(b"\n").removesuffix(b"\r"), raw[cut:]
            text = piece.decode(errors="replace")
            self.replaced += text.count(UNKNOWN) - piece.count(UNKNOWN.encode())
            yield text, begins
            raw, begins = rest + read(PIECE - len(rest)), ends


def _without_mark(read: Callable[[int], bytes]) -> bytes:
    """The first piece of a text, without seeking: a pipe cannot."""
    raw = read(PIECE)
    if not raw.startswith(BOM_UTF8):
        return raw
    raw = raw.removeprefix(BOM_UTF8)
    ends = raw.endswith(b"\n")
    return raw if ends else raw + read(len(BOM_UTF8))


def _cut(raw: bytes) -> int:
    """Where a piece of a long line ends: after its last blank, else between two characters."""
    blank = max(raw.rfind(bytes([byte])) for byte in _BLANKS)
    if blank > 0:
        return blank + 1
    cut = len(raw)
    while cut > len(raw) - 4 and raw[cut - 1] & 0xC0 == 0x80:  # inside a character
        cut -= 1
    return cut - 1 if raw[cut - 1] >= 0xC0 else len(raw)


def _size(path: Path) -> int | None:
    """In bytes; None of a pipe, which is not opened before it is read."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            return None
        with path.open("rb"):
            return path.stat().st_size
    except OSError as error:
        raise ReluctantError(f"expected a file of lines, got {path}: {error}") from error


def _lines(path: Path) -> int:
    """How many there are; what is after the last line feed is one, too, unless it is empty."""
    count, last = 0, b"\n"
    with path.open("rb") as file:
        block = file.read(_BLOCK).removeprefix(BOM_UTF8)
        while block:
            count, last = count + block.count(b"\n"), block[-1:]
            block = file.read(_BLOCK)
    return count + (last != b"\n")
