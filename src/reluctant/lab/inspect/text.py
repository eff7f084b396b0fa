"""The text that goes through a model: read piece by piece, so that its length is all the same."""

from codecs import BOM_UTF8  # some programs begin a text with it
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from reluctant.errors import ReluctantError

PIECE = 2**14  # bytes of a line that are read at once
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
        clean = line.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        self.replaced += clean.count("\ufffd") - line.count("\ufffd")
        return clean


def _strictly(lines: Iterable[str], targets: Iterable[str]) -> Iterator[tuple[str, str]]:
    try:
        yield from zip(lines, targets, strict=True)
    except ValueError as error:
        raise ReluctantError(f"expected a target for each line: {error}") from error


class File:
    """A text in a file, in UTF-8; with `target`, the lines of another one beside it.

    Long lines come in pieces of at most PIECE bytes; beside a target only the first one counts.

    Raises ReluctantError for a file that cannot be read, and for two with different numbers of
    lines.
    """

    def __init__(self, path: Path, target: Path | None = None) -> None:
        self.name, self.bytes, self.replaced = path.name, 0, 0
        self._path, self._target = path, target
        counts = [_lines(each) for each in (path, target) if each is not None]
        if len(set(counts)) > 1:
            raise ReluctantError(
                f"expected as many lines in {target} as in {path}, got {counts[1]} and {counts[0]}"
            )
        self.size: int | None = path.stat().st_size

    def pairs(self) -> Iterator[Pair]:
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
        rest, begins = b"", True
        if file.read(len(BOM_UTF8)) != BOM_UTF8:
            file.seek(0)
        while raw := rest + file.readline(PIECE - len(rest)):
            if counts:
                self.bytes = file.tell()
            ends = raw.endswith(b"\n")
            cut = len(raw) if ends or len(raw) < PIECE else _cut(raw)
            piece, rest = raw[:cut].removesuffix(b"\n").removesuffix(b"\r"), raw[cut:]
            text = piece.decode(errors="replace")
            self.replaced += text.count("\ufffd") - piece.count("\ufffd".encode())
            yield text, begins
            begins = ends


def _cut(raw: bytes) -> int:
    """Where a piece of a long line ends: after its last blank, else between two characters."""
    blank = max(raw.rfind(bytes([byte])) for byte in _BLANKS)
    if blank > 0:
        return blank + 1
    cut = len(raw)
    while cut > len(raw) - 4 and raw[cut - 1] & 0xC0 == 0x80:  # inside a character
        cut -= 1
    return cut - 1 if raw[cut - 1] >= 0xC0 else len(raw)


def _lines(path: Path) -> int:
    """How many there are; what is after the last line feed is one, too, unless it is empty."""
    count, last = 0, b"\n"
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                count, last = count + block.count(b"\n"), block[-1:]
    except OSError as error:
        raise ReluctantError(f"expected a file of lines, got {path}: {error}") from error
    return count + (last != b"\n")
