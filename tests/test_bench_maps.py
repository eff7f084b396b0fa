"""`reluctant bench --maps`: what it measures is right, and says so if it is not."""

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from reluctant.bench import maps
from reluctant.cli import app


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"MAP": (64, 48), "LOGITS": (300, 32), "ARGMAX": (500, 32), "COLD": 2**16}
    for name, size in (sizes | {"MEMORY_BYTES": 2**16}).items():
        monkeypatch.setattr(maps, name, size)


def test_all_rows_are_measured_and_right() -> None:
    seen: list[float] = []
    result = maps.run_maps(rounds=1, on_progress=lambda what, done: seen.append(done))
    assert seen == list(range(maps.STEPS))
    assert len(result.rows) == maps.STEPS - 1
    assert result.agree
    assert all(row.ours > 0 and row.ratio == row.torch / row.ours for row in result.rows)
    assert [row.bytes for row in result.rows[:4]] == [64 * 48 * 4] * 3 + [64 * 48 * 2]
    text = io.StringIO()
    maps.show(result, Console(file=text, width=150))
    assert "certified argmax" in text.getvalue()


def test_a_wrong_output_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "maps.json"
    command = ["bench", "--maps", "--rounds", "1", "--json", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert len(json.loads(out.read_text())["rows"]) == maps.STEPS - 1
    plain = maps.few_rows
    monkeypatch.setattr(maps, "few_rows", lambda x, w, b: torch.mul(plain(x, w, b), 1.1))
    assert CliRunner().invoke(app, command).exit_code == 1
    assert CliRunner().invoke(app, ["bench", "--maps", "--crowded"]).exit_code == 2
