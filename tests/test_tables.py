"""Tables of limits: those that are shipped keep the rules, and no other is ever trusted."""

import copy
import itertools
import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reluctant import tables, ways
from reluctant.bench import fit
from reluctant.errors import ReluctantError, ReluctantWarning
from reluctant.kernels import integer
from reluctant.tables import CAPABILITIES, DTYPES, FEW_TOKENS, Table
from reluctant.ways import Limits

TOKENS = (1, 2, 3, 4, 7, 8, 15, 16, 17, 64, 100, 512, 5000)
WEIGHTS = (16, 2**18, 2**18 + 1, 2**20, 2**22, 2**24, 2**28)
HERE = integer.CAPABILITY, torch.get_num_threads()


def own(**changes: Any) -> Table:
    table = tables.shipped(HERE[0]) | tables.about(*HERE) | changes
    table["limits"]["float32"] = {
        size: {tokens: [0.001 if int(tokens) <= FEW_TOKENS else 0, 0, 0] for tokens in row}
        for size, row in table["limits"]["float32"].items()
    }
    return table


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_shipped_tables_keep_the_rules(capability: str) -> None:
    table = tables.shipped(capability)
    tables.check(table)
    assert table["capability"] == capability
    # Once more and in other words: by what the engine is told.
    for dtype, size in itertools.product(DTYPES, WEIGHTS):
        told = [ways.look_up(table, dtype, size, n) for n in TOKENS]
        few = [limits.few for limits in told]
        assert few == sorted(few, reverse=True)
        assert few[0] > 0
        assert all((f > 0) <= (n <= FEW_TOKENS) for f, n in zip(few, TOKENS, strict=True))
        beyond = [limits for limits, n in zip(told, TOKENS, strict=True) if n > FEW_TOKENS]
        for way in ("screen", "many"):
            line = [getattr(limits, way) for limits in beyond]
            assert line == sorted(line, reverse=True)
            assert dtype == "float32" or not any(line)
        assert capability != "none" or not any(limits.screen for limits in told)
        # The densest cells that are measured leave 61 % of the neurons as candidates.
        assert all(0 <= share < 0.65 for limits in told for share in limits)
    for dtype, n in itertools.product(DTYPES, TOKENS):
        told = [ways.look_up(table, dtype, size, n) for size in WEIGHTS]
        for way in ("few", "screen", "many"):
            line = [getattr(limits, way) for limits in told]
            assert line == sorted(line)


def broken(change: Callable[[Table], object]) -> Table:
    table = copy.deepcopy(own())
    change(table)
    return table


def entry(table: Table, size: int, tokens: int, way: int, value: Any) -> None:
    table["limits"]["float32"][str(size)][str(tokens)][way] = value


BROKEN: dict[str, Callable[[Table], object]] = {
    "rises with tokens": lambda t: entry(t, 2**24, 2, 0, 0.002),
    "falls with weights": lambda t: entry(t, 2**18, 1, 0, 0.002),
    "screen falls with weights": lambda t: entry(t, 2**18, 8, 1, 0.002),
    "many rises with tokens": lambda t: entry(t, 2**24, 512, 2, 0.002),
    "never give up": lambda t: entry(t, 2**24, 1, 0, 2.0),
    "below zero": lambda t: entry(t, 2**18, 16, 0, -0.001),
    "not a number": lambda t: entry(t, 2**24, 1, 0, float("nan")),
    "a text": lambda t: entry(t, 2**24, 1, 0, "0.1"),
    "a truth": lambda t: entry(t, 2**24, 1, 0, True),
    "few at many tokens": lambda t: entry(t, 2**24, 64, 0, 0.001),
    "one short": lambda t: t["limits"]["float32"][str(2**24)]["1"].pop(),
    "a size without a number of tokens": lambda t: t["limits"]["float32"][str(2**24)].pop("1"),
    "no sizes": lambda t: t["limits"].update(float32={}),
    "a dtype is missing": lambda t: t["limits"].pop("bfloat16"),
    "no such size": lambda t: t["limits"]["float32"].update(many={"1": [0, 0, 0]}),
    "sizes in a list": lambda t: t["limits"].update(float32=[1, 2, 3]),
    "a largest share is missing": lambda t: t["largest"]["float32"].pop(str(2**18)),
    "more than all": lambda t: t["largest"]["float32"].update({str(2**24): [1.5, 0, 0]}),
    "another capability": lambda t: t.update(capability="avx1024"),
    "another processor": lambda t: t.update(machine="80286"),
    "other threads": lambda t: t.update(threads=512),
    "another version": lambda t: t["versions"].update(reluctant="0.0.1"),
    "no versions": lambda t: t.update(versions=None),
    "no limits": lambda t: t.pop("limits"),
}


def test_what_is_measured_here_is_used(cache: Path) -> None:
    shipped = ways.limits("float32", 2**20, 1)
    assert f"shipped for {HERE[0]}" in ways.in_use().name
    path = tables.write_own(own())
    assert ways.limits("float32", 2**20, 1) == shipped  # chosen once in a process
    ways.forget()
    assert ways.limits("float32", 2**20, 1) == Limits(0.001, 0, 0)
    assert str(path) in ways.in_use().name
    assert [file.parent for file in cache.iterdir()] == [cache]
    assert tables.forget() == [path]
    assert not path.exists()
    ways.forget()
    assert ways.limits("float32", 2**20, 1) == shipped
    assert tables.forget() == []


def test_of_other_threads_and_capabilities_nothing_is_used(cache: Path) -> None:
    tables.write_own(own(threads=HERE[1] + 1))
    other = next(each for each in CAPABILITIES if each not in (HERE[0], "none"))
    tables.write_own(own(capability=other))
    assert len(list(cache.iterdir())) == 2
    assert "shipped" in tables.find(*HERE).name
    assert tables.find(*HERE).problem is None
    assert len(tables.forget()) == 2


@pytest.mark.parametrize("fault", BROKEN)
def test_a_table_that_cannot_be_trusted_is_left_aside(
    fault: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    tables.own_path(*HERE).write_text(json.dumps(broken(BROKEN[fault])), encoding="utf-8")
    left_aside(monkeypatch)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"3", b'"a"', b"{}", b"\xff\xfe", b"[" * 100_000, b"\0" * 99],
    ids=range(10),
)
def test_what_is_no_table_is_left_aside(
    content: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    tables.own_path(*HERE).write_bytes(content)
    left_aside(monkeypatch)


def test_a_folder_is_no_table(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.own_path(*HERE).mkdir(parents=True)
    left_aside(monkeypatch)
    with pytest.raises(ReluctantError, match="expected to remove"):
        tables.forget()


def left_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "_times_said", itertools.count())
    expected = tables.shipped(HERE[0])
    with pytest.warns(ReluctantWarning, match="reluctant tune --forget"):
        told = ways.limits("float32", 2**20, 1)
    assert told == ways.look_up(expected, "float32", 2**20, 1)
    assert "shipped" in ways.in_use().name
    with warnings.catch_warnings():  # said once, and never again
        warnings.simplefilter("error")
        ways.limits("float32", 2**20, 3)
        ways.forget()
        ways.limits("float32", 2**20, 1)


@pytest.mark.parametrize("fault", [name for name in BROKEN if not name.startswith("other")])
def test_a_table_that_breaks_a_rule_is_not_written(fault: str, cache: Path) -> None:
    table = broken(BROKEN[fault])
    if fault in ("another processor", "another version", "no versions"):
        tables.check(table)  # it may be right, elsewhere
        return
    with pytest.raises((ReluctantError, KeyError, TypeError, ValueError, AttributeError)):
        tables.write_own(table)
    assert not cache.exists()


def test_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "cache", tmp_path / "file", Path("~/.cache")):
        monkeypatch.setattr(tables, "folder", lambda place=place: place)
        with pytest.raises(ReluctantError, match="expected a cache folder that can be written"):
            tables.check_folder()
        assert tables.find(*HERE).name.startswith("the one shipped")


def drawn_cells(seed: int) -> list[fit.Cell]:
    """Times without any order: what is measured on a busy machine, and worse."""
    chance = random.Random(seed)
    names = ("few", "screen", "many", "dense", "few in vain", "screen in vain", "many in vain")
    cells = []
    for dtype, size, n in itertools.product(DTYPES, (2**18, 2**20, 2**24), (1, 4, 16, 64, 512)):
        if (dtype == "bfloat16" and n > FEW_TOKENS) or (size, n) == (2**24, 512):
            continue
        offered = ("few", "dense") if n <= 4 else names
        if n > FEW_TOKENS:
            offered = ("screen", "many", "dense")
        if dtype == "bfloat16":
            offered = ("few", "dense")
        for density in (0.02, 0.1, 0.3):
            seconds = {name: chance.uniform(0.1, 1) for name in names if name.split()[0] in offered}
            left = density * chance.uniform(1, 1.5), density * chance.uniform(1, 2)
            cells.append(fit.Cell(dtype, size, n, density, *left, seconds))
    return cells


@pytest.mark.parametrize("seed", range(40))
def test_whatever_was_measured_the_table_keeps_the_rules(seed: int) -> None:
    cells = drawn_cells(seed)
    table = fit.table_of(cells, tables.about("avx2", 2))  # checks
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert len(fit.regrets(cells, table)) == len(cells)
    assert min(fit.regrets(cells, table)) >= 1 - 1e-9


def test_clear_measurements_are_kept() -> None:
    cells = [
        fit.Cell(dtype, 2**20, n, p, p, p, {
            "few": p * n, "few in vain": 0.85, "dense": 0.8,
        })
        for dtype in DTYPES for n in (1, 4) for p in (0.1, 0.3, 0.5)
    ]  # fmt: skip
    table = fit.table_of(cells, tables.about("avx2", 2))
    for dtype in DTYPES:
        assert ways.look_up(table, dtype, 2**20, 1) == Limits(0.5, 0, 0)
        assert ways.look_up(table, dtype, 2**20, 4) == Limits(0.2, 0, 0)
        assert ways.look_up(table, dtype, 2**20, 64) == Limits(0, 0, 0)
