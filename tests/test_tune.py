"""`reluctant tune` measures, keeps and removes a table; what it found, no test says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from reluctant import tables, tune, ways
from reluctant.bench import crossings
from reluctant.cli import app
from reluctant.engine import Engine
from reluctant.kernels import integer

PLAN = crossings.Plan(((32, 128), (64, 256)), (1, 8, 64), (0.05, 0.3), rounds=1, most=2**19)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["tune", *arguments])


def test_this_machine_is_measured(cache: Path) -> None:
    seen: list[float] = []
    tuned = tune.run_tune(PLAN, on_progress=lambda what, done: seen.append(done))
    # 64 tokens: of the smaller shape only, and in float32, as all else is too large.
    assert len(PLAN) == 2 * (5 + 4) == tuned.cells
    assert seen == [*range(18), 18]
    assert tuned.path == tables.own_path(integer.CAPABILITY, torch.get_num_threads())
    table = json.loads(tuned.path.read_text())
    tables.check(table)
    assert ways.in_use().table == table
    assert ways.in_use().problem is None
    assert ways.limits("float32", 32 * 128, 1).few == table["limits"]["float32"]["4096"]["1"][0]
    assert [*table["limits"]["float32"]] == ["4096", "16384"]
    for dtype in tables.DTYPES:
        assert [*table["limits"][dtype]["16384"]] == ["1", "8", "64"]
    assert all(1 <= average <= most for most, average in (tuned.before, tuned.after))


def test_each_way_is_measured_where_it_can_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: set[str] = set()
    forward = Engine.forward

    def record(engine: Engine, x: torch.Tensor) -> torch.Tensor:
        before = dict(engine.calls)
        y = forward(engine, x)
        taken.update(way for way in before if engine.calls[way] > before[way])
        return y

    monkeypatch.setattr(Engine, "__call__", record)
    expected = {1: {"few", "dense"}, 8: {"few", "many", "dense"}, 64: {"many", "dense"}}
    for tokens, ways_of_it in expected.items():
        taken.clear()
        plan = crossings.Plan(((64, 256),), (tokens,), (0.1,), rounds=1)
        cells = list(crossings.measure(plan))
        assert taken == ways_of_it
        assert [cell.dtype for cell in cells] == ["float32", "bfloat16"][: 1 + (tokens <= 16)]
        for cell in cells:
            assert 0.05 < cell.density <= 0.1
            assert cell.candidates >= 0.05
            assert ("screen" in cell.seconds) == (cell.screened > 0)
            assert "screen" not in cell.seconds or cell.screened >= 0.05


def test_the_command(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossings, "QUICK", PLAN)
    done = invoke("--quick")
    assert done.exit_code == 0, done.output
    (path,) = cache.iterdir()
    assert f"written: {path}" in done.stdout
    assert "at most" in done.stdout
    gone = invoke("--forget")
    assert (gone.exit_code, gone.stdout) == (0, f"removed: {path}\n")
    assert not list(cache.iterdir())
    assert invoke("--forget").exit_code == 0
    assert invoke("--forget", "--quick").exit_code == 2


def test_where_nothing_can_be_kept_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tables, "folder", lambda: tmp_path / "file" / "cache")

    def measure(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("it ran")

    monkeypatch.setattr(crossings, "measure", measure)
    refused = invoke()
    assert refused.exit_code == 2
    assert "expected a cache folder that can be written to" in refused.stderr
