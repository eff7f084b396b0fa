"""Lines of a text as they come: each ends with a line feed and nothing else."""

from codecs import BOM_UTF8  # some programs begin a text with it
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from reluctant.errors import ReluctantError


def lines_of(path: Path) -> list[str]:
    """All lines of a file in UTF-8.

    Raises ReluctantError for a file that cannot be read, naming the line if it is no UTF-8.
    """
    try:
        content = path.read_bytes().removeprefix(BOM_UTF8)
    except OSError as error:
        raise ReluctantError(f"expected a file of lines, got {path}: {error}") from error
    lines = content.split(b"\n")
    if not lines[-1]:
        del lines[-1]  # what ended with a line feed
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            texts.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError as error:
            raise ReluctantError(
                f"expected UTF-8 in {path}, got something else in line {number} ({error}): "
                f"convert it first, as by `iconv -f LATIN1 -t UTF-8 {path}`"
            ) from error
    return texts


def ready_lines(stream: BinaryIO, most: int) -> Iterator[list[bytes]]:
    """Lines as they arrive, without waiting for more where one is there; at most `most` at once.

    stream: has `read1`, such as `sys.stdin.buffer`. What is after the last line feed is a line,
    too, unless it is empty.

    >>> from io import BytesIO
    >>> list(ready_lines(BytesIO(b"one\\ntwo\\r\\nthree"), most=5))
    [[b'one', b'two'], [b'three']]
    """
    rest, first = bytearray(), True
    while read := stream.read1(1 << 16):  # type: ignore[attr-defined]
        rest += read
        if b"\n" not in read:
            continue
        *lines, rest = rest.split(b"\n")
        if first:
            lines[0], first = lines[0].removeprefix(BOM_UTF8), False
        for start in range(0, len(lines), most):
            yield [bytes(line.removesuffix(b"\r")) for line in lines[start : start + most]]
    if first:
        rest = rest.removeprefix(BOM_UTF8)
    if rest:
        yield [bytes(rest)]
