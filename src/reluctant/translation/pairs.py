"""Sentences and their translations, from the files they come in."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from reluctant.errors import ReluctantError

_LONGEST = 1 << 20  # bytes; what has no line ends should not fill the memory


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


def read(
    paths: Sequence[Path], languages: tuple[str, str] | None = None
) -> tuple[list[Pair], Counter[str]]:
    """Read pairs of sentences, UTF-8 and a line each, in the order of the paths.

    paths: each of them
        NAME.tsv: source, tab, target.
        NAME.jsonl: {"source": ..., "target": ...}; with languages ("en", "de") also {"en": ...,
            "de": ...} or {"translation": {"en": ..., "de": ...}}.
        two files of lines that belong together, one after the other, NAME.en NAME.de: the first
            is the source.
        a folder with files of these kinds, read in the order of their names; of two that belong
            together `languages` says which is the source. Hidden files and others are left out.
        Any file may be compressed: NAME.tsv.gz.
    languages: of source and target, as suffixes of files and keys of JSON name them.

    Gives the pairs as they stand there, empty sentences too, and how many lines were "read" (two
    that belong together count once), or skipped, by what was wrong: "blank", "binary" (a NUL),
    "undecodable", "too long" (a MiB), "no tab", "more than one tab", "bad JSON", "no source and
    target", "not strings".

    Only a line feed ends a line, or the two of Windows do. A byte order mark is left out.

    Raises ReluctantError for a path that is none of these, two files that belong together but
    differ in their number of lines, a broken .gz, and a file of which nothing is a pair, or less
    than half of what is not blank.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "train.tsv"
    ...     _ = path.write_text("one\\teins\\ntwo\\tzwei\\nthree\\n")
    ...     read([path])
    ([Pair(source='one', target='eins'), Pair(source='two', target='zwei')], \
Counter({'read': 3, 'no tab': 1}))
    """
    if languages is not None and languages[0] == languages[1]:
        raise ReluctantError(f"expected two languages, got {languages[0]!r} twice")
    pairs: list[Pair] = []
    counts: Counter[str] = Counter()
    for files in _files(list(paths), languages):
        own: Counter[str] = Counter()
        before = len(pairs)
        for result in _results(files, languages):
            own["read"] += 1
            if isinstance(result, Pair):
                pairs.append(result)
            else:
                own[result] += 1
        _check(files, len(pairs) - before, own)
        counts += own
    return pairs, counts


def _files(paths: list[Path], languages: tuple[str, str] | None) -> Iterator[tuple[Path, ...]]:
    """Files of pairs, and twos of files that belong together."""
    while paths:
        path = paths.pop(0)
        if path.is_dir():
            yield from _in_folder(path, languages)
        elif not path.is_file():
            raise ReluctantError(f"expected a file or a folder, got {path}: there is none")
        elif _suffix(path) in _PARSERS:
            yield (path,)
        elif paths and paths[0].is_file() and _are_twins(path, paths[0]):
            if languages == (_suffix(paths[0]), _suffix(path)):
                raise ReluctantError(
                    f"expected the file in {languages[0]!r} first, the source, got {path} and "
                    f"{paths[0]}: exchange them, or the languages"
                )
            yield path, paths.pop(0)
        else:
            raise ReluctantError(
                f"expected .tsv, .jsonl, or two files like train.en train.de, one after the other, "
                f"got {path}: rename it if it is one of these"
            )


def _in_folder(folder: Path, languages: tuple[str, str] | None) -> list[tuple[Path, ...]]:
    # NAME.en.gz as NAME.en; NAME.en itself is before it, if there are both
    inside: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            inside.setdefault(path.name.removesuffix(".gz"), path)
    found: list[tuple[Path, ...]] = []
    for name, path in inside.items():
        suffix = _suffix(path)
        if suffix in _PARSERS:
            found.append((path,))
        elif languages is not None and suffix in languages:
            stem = name.removesuffix(suffix)
            twins = [inside.get(stem + language) for language in languages]
            if twins[0] is None or twins[1] is None:
                missing = languages[twins.index(None)]
                raise ReluctantError(f"expected {stem}{missing} beside {path}, got none")
            if path == twins[0]:
                found.append((twins[0], twins[1]))
    if not found:
        expected = ".tsv or .jsonl files, or with languages ('en', 'de') NAME.en and NAME.de"
        raise ReluctantError(f"expected {expected} in the folder {folder}, got none of them")
    return found


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.removeprefix(".")


def _are_twins(one: Path, other: Path) -> bool:
    names = [Path(path.name.removesuffix(".gz")) for path in (one, other)]
    return (
        names[0].stem == names[1].stem
        and names[0].suffix != names[1].suffix
        and names[1].suffix.removeprefix(".") not in _PARSERS
    )


def _results(files: tuple[Path, ...], languages: tuple[str, str] | None) -> Iterator[Pair | str]:
    """Of each line, or two of twins: the pair, or in a word why it is none."""
    if len(files) == 2:
        lines = _side_by_side(*files)
        parse: _Parse = _from_two
    else:
        lines = ([line] for line in _lines(files[0]))
        parse = _PARSERS[_suffix(files[0])]
    for each in lines:
        try:
            yield parse([_decoded(line) for line in each], languages)
        except _UnusableError as error:
            yield str(error)


def _side_by_side(one: Path, other: Path) -> Iterator[list[bytes]]:
    counts = [0, 0]
    for lines in zip_longest(_lines(one), _lines(other)):
        counts = [count + (line is not None) for count, line in zip(counts, lines, strict=True)]
        if lines[0] is not None and lines[1] is not None:
            yield [lines[0], lines[1]]
    if counts[0] != counts[1]:
        raise ReluctantError(
            f"expected as many lines in {one} as in {other}, which belong together, got "
            f"{counts[0]} and {counts[1]}: somewhere they have slipped; align them anew"
        )


def _lines(path: Path) -> Iterator[bytes]:
    """The lines without their ends; of one that is too long, its first bytes."""
    try:
        with _opened(path) as file:
            start = b"\xef\xbb\xbf"  # the byte order mark
            while line := file.readline(_LONGEST + 2):
                rest = line
                while not rest.endswith(b"\n") and rest:
                    rest = file.readline(_LONGEST)
                yield line.removeprefix(start).removesuffix(b"\n").removesuffix(b"\r")
                start = b""
    except (OSError, EOFError, zlib.error) as error:
        raise ReluctantError(
            f"expected a file that can be read, got {path}: {error or 'it breaks off'}; "
            "make it, or fetch it, once more"
        ) from error


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    return path.open("rb")


class _UnusableError(Exception):
    """Why a line is no pair."""


def _decoded(line: bytes) -> str:
    if len(line) > _LONGEST:
        raise _UnusableError("too long")
    if b"\0" in line:
        raise _UnusableError("binary")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise _UnusableError("undecodable") from None


def _from_two(texts: list[str], languages: tuple[str, str] | None) -> Pair:
    if not any(text.strip() for text in texts):
        raise _UnusableError("blank")
    return Pair(*texts)


def _from_tsv(texts: list[str], languages: tuple[str, str] | None) -> Pair:
    fields = texts[0].split("\t")
    if not texts[0].strip():
        raise _UnusableError("blank")
    if len(fields) != 2:
        raise _UnusableError("no tab" if len(fields) == 1 else "more than one tab")
    return Pair(*fields)


def _from_json(texts: list[str], languages: tuple[str, str] | None) -> Pair:
    if not texts[0].strip():
        raise _UnusableError("blank")
    try:
        value = json.loads(texts[0])
    except (ValueError, RecursionError):
        raise _UnusableError("bad JSON") from None
    sides = _sides(value, languages)
    if not all(isinstance(side, str) for side in sides):
        raise _UnusableError("not strings")
    source, target = (_decoded(side.encode(errors="surrogatepass")) for side in sides)
    return Pair(source, target)


def _sides(value: Any, languages: tuple[str, str] | None) -> list[Any]:
    """What stands under the names of source and target."""
    places = [(value, ("source", "target"))]
    if languages is not None and isinstance(value, dict):
        places += [(value, languages), (value.get("translation"), languages)]
    for place, names in places:
        if isinstance(place, dict) and all(name in place for name in names):
            return [place[name] for name in names]
    raise _UnusableError("no source and target")


_Parse = Callable[[list[str], tuple[str, str] | None], Pair]
_PARSERS: dict[str, _Parse] = {"tsv": _from_tsv, "jsonl": _from_json}

_MENDS = {
    "binary": "binary data, or text in UTF-16: unpack it, or iconv -f UTF-16 -t UTF-8",
    "undecodable": "text in another encoding than UTF-8: iconv -f LATIN1 -t UTF-8, or whichever",
    "too long": "text without line ends",
    "no tab": "text without tabs: each line needs one, between source and target",
    "more than one tab": "a table of more columns: keep two of them, as by cut -f 1,2",
    "bad JSON": "no JSON, an object each line",
    "no source and target": "JSON of other names: call them source and target, or give languages",
    "not strings": "JSON whose source and target are no strings",
    "blank": "empty lines",
}


def _check(files: tuple[Path, ...], usable: int, counts: Counter[str]) -> None:
    """Refuse files of which too little is left."""
    skipped = {reason: n for reason, n in counts.items() if reason != "read"}
    blank = skipped.get("blank", 0)
    if usable and sum(skipped.values()) - blank <= usable:
        return
    name = " and ".join(map(str, files))
    if not counts["read"]:
        raise ReluctantError(f"expected pairs of sentences in {name}, got an empty file")
    reason = max(skipped, key=lambda reason: (reason != "blank", skipped[reason]))
    raise ReluctantError(
        f"expected pairs of sentences in {name}, got {usable} in {counts['read']} lines, of which "
        f"{skipped[reason]} are skipped as {reason!r}. It looks like {_MENDS[reason]}"
    )
