"""Tables of what the ways cost: up to which share which of them is the fastest.

One for each capability of processors is shipped, in `costs/`; `reluctant tune` measures one of this
machine's own, which is kept in the user's cache folder. All have one form:

    capability, threads, machine, versions      what it was measured on
    largest   dtype -> weights -> [few, screen, many]: the largest share that was measured
    limits    dtype -> weights -> tokens -> [few, screen, many], as `ways.Limits`
    training  dtype -> tokens -> the share up to which a training step goes over active neurons only

and keep the rules of `check`. Measured limits are noisy, and these rules are what physics says of
them. The more tokens, the more calls share one reading of the weights in the dense way, while the
sparse ways work for each pair of token and neuron: limits do not rise with tokens. The larger the
layer, the less weighs what a call costs whatever its size, and the farther away are its weights,
where not reading them saves most: limits do not fall with weights. (Up to FEW_TOKENS, "screen" and
"many" are tried after "few" only, and more of them the less "few" can do: there the number of
tokens says nothing.) Beyond the largest share that was measured nothing is known: no limit is.
"""

import json
from collections.abc import Iterator
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_args

from platformdirs import user_cache_path

from reluctant.errors import ReluctantError
from reluctant.files import check_writable, write_json
from reluctant.kernels.integer import Capability
from reluctant.machine import cpu_model, versions

Table = dict[str, Any]

CAPABILITIES: tuple[Capability, ...] = get_args(Capability)
DTYPES = ("float32", "bfloat16")
WAYS = ("few", "screen", "many")
SMALLEST_STEP = 4  # tokens from which on a training step may go over active neurons only
FEW_TOKENS = 16  # up to which the few-token kernel is measured, and taken
_FEW, _SCREEN, _MANY = range(3)


class Found(NamedTuple):
    """The table for this process. name: what people are told; problem: why their own is not it."""

    table: Table
    name: str
    problem: str | None = None


def about(capability: str, threads: int, training: Table | None = None) -> Table:
    """What a table says of where it was measured, and its part on training; None: the shipped."""
    return {
        "training": shipped(capability)["training"] if training is None else training,
        "capability": capability,
        "threads": threads,
        "machine": cpu_model(),
        "versions": versions("reluctant", "torch", "numba"),
    }


def shipped(capability: str) -> Table:
    """The table that comes with the package.

    >>> shipped("avx2")["capability"]
    'avx2'
    """
    text = files("reluctant").joinpath("costs", f"{capability}.json").read_text(encoding="utf-8")
    table: Table = json.loads(text)
    return table


def folder() -> Path:
    """Where this user's tables are kept."""
    return user_cache_path("reluctant", appauthor=False)


def own_path(capability: str, threads: int) -> Path:
    """Where the table of this machine stands, if it has been measured."""
    return folder() / f"ways-{capability}-{threads}.json"


def find(capability: str, threads: int) -> Found:
    """This machine's own table, if there is one that can be trusted, else the shipped one."""
    path = own_path(capability, threads)
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        _check_own(table, capability, threads)
    except FileNotFoundError:
        problem = None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = (
            f"{path} is left aside ({' '.join(str(error).split()) or type(error).__name__}): "
            f"reluctant tune measures it anew, reluctant tune --forget removes it"
        )
    else:
        return Found(table, f"measured here, {path}")
    return Found(shipped(capability), f"the one shipped for {capability}", problem)


def check_folder() -> None:
    """Refuse, before a long run, a cache folder that cannot be written to.

    Raises:
        ReluctantError: it is not there and cannot be made, or may not be written to.
    """
    place = folder()
    try:
        if not place.is_absolute():  # there is no home: "~" would be made in the current folder
            raise OSError("this user has no home")
        place.mkdir(parents=True, exist_ok=True)
        check_writable(place / "ways.json")
    except (OSError, ReluctantError) as error:
        raise ReluctantError(
            f"expected a cache folder that can be written to; {place}: {error}: set "
            f"XDG_CACHE_HOME to one that can"
        ) from error


def write_own(table: Table) -> Path:
    """Keep a measured table for this user, and say where.

    Raises:
        ReluctantError: as `check` and `check_folder`.
    """
    check(table)
    check_folder()
    path = own_path(table["capability"], table["threads"])
    try:
        write_json(path, table)
    except OSError as error:
        raise ReluctantError(f"expected a file that can be written; {path}: {error}") from error
    return path


def forget() -> list[Path]:
    """Remove this user's tables, whatever they were measured for, and say which there were.

    Raises:
        ReluctantError: one of them cannot be removed.
    """
    found = sorted(folder().glob("ways-*.json"))
    for path in found:
        try:
            path.unlink()
        except OSError as error:
            raise ReluctantError(f"expected to remove {path}: {error}") from error
    return found


def check(table: Table) -> None:
    """Refuse a table that breaks a rule (see above).

    Raises:
        ReluctantError: it does, or something is missing.
        KeyError, TypeError, ValueError, AttributeError: it is something else.
    """
    if table["capability"] not in CAPABILITIES:
        raise ReluctantError(f"expected a capability of {CAPABILITIES}")
    for dtype in DTYPES:
        rows, largest = table["limits"][dtype], table["largest"][dtype]
        sizes = _sizes(rows)
        counts = _sizes(rows[str(sizes[0])])
        if any(_sizes(rows[str(size)]) != counts for size in sizes):
            raise ReluctantError(f"expected the same numbers of tokens for all sizes ({dtype})")
        for size in sizes:
            _check_shares(largest[str(size)], [1, 1, 1], f"{dtype}, {size} weights")
            for tokens in counts:
                where = f"{dtype}, {size} weights, {tokens} tokens"
                limits = rows[str(size)][str(tokens)]
                _check_shares(limits, largest[str(size)], where)
                few_only = dtype != "float32", table["capability"] == "none"
                if limits[_FEW] > 0 and tokens > FEW_TOKENS:
                    raise ReluctantError(f"expected few: 0 beyond {FEW_TOKENS} tokens ({where})")
                if (limits[_SCREEN] > 0 and any(few_only)) or (limits[_MANY] > 0 and few_only[0]):
                    raise ReluctantError(f"expected 0 for a way that there is not ({where})")
        _check_training(table["training"][dtype], dtype)
        for line, way in _rising(rows, sizes, counts):
            if any(one[way] > other[way] for one, other in pairwise(line)):
                raise ReluctantError(f"expected monotone limits of {WAYS[way]} ({dtype}): {line}")


def _check_training(shares: Table, dtype: str) -> None:
    smallest = _sizes(shares)[0]
    if smallest >= SMALLEST_STEP or shares[str(smallest)] != 0:
        raise ReluctantError(f"expected no share for fewer than {SMALLEST_STEP} tokens ({dtype})")
    if not all(type(share) in (int, float) and 0 <= share < 1 for share in shares.values()):
        raise ReluctantError(f"expected shares from 0 to 1 for training ({dtype}), got {shares}")


def _check_own(table: Table, capability: str, threads: int) -> None:
    expected = about(capability, threads)
    for key in ("capability", "threads", "machine"):
        if table[key] != expected[key]:
            raise ReluctantError(f"measured for another {key}, {table[key]!r}")
    measured, here = (t["versions"]["reluctant"] for t in (table, expected))
    if measured != here:
        raise ReluctantError(f"measured by version {measured}, this is {here}")
    check(table)


def _sizes(entries: Table) -> list[int]:
    """The keys, numbers from 1 on, in rising order."""
    sizes = sorted(int(key) for key in entries)
    if not sizes or sizes[0] < 1 or {str(size) for size in sizes} != entries.keys():
        raise ReluctantError(f"expected positive numbers, got {list(entries)[:9]}")
    return sizes


def _check_shares(shares: list[float], most: list[float], where: str) -> None:
    if [type(share) in (int, float) for share in shares] != [True] * 3:
        raise ReluctantError(f"expected three numbers, got {shares} ({where})")
    for way, share, top in zip(WAYS, shares, most, strict=True):
        if not 0 <= share <= top:
            raise ReluctantError(f"expected {way} from 0 to {top}, got {share} ({where})")


def _rising(rows: Table, sizes: list[int], counts: list[int]) -> Iterator[tuple[list[Any], int]]:
    """All lines of entries along which a way's limits must not fall, with that way."""
    for way in range(3):
        for tokens in counts:
            yield [rows[str(size)][str(tokens)] for size in sizes], way
        some = [n for n in counts if (n <= FEW_TOKENS) == (way == _FEW)]
        for size in sizes:
            yield [rows[str(size)][str(tokens)] for tokens in reversed(some)], way
