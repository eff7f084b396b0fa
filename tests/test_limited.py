"""`reluctant bench --as avx2`: all are limited, and what cannot be is left out."""

import io
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import reluctant.bench
from reluctant.bench import limited
from reluctant.bench.run import Result
from reluctant.bench.table import show
from reluctant.cli import app
from reluctant.errors import ReluctantError
from reluctant.kernels import integer

needs_avx2 = pytest.mark.skipif(not integer.available(), reason="no AVX2")


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@needs_avx2
def test_torch_and_the_kernels_are_limited() -> None:
    code = (
        "import torch; from reluctant.kernels.integer import CAPABILITY\n"
        "print(CAPABILITY, torch.backends.cpu.get_cpu_capability())"
    )
    assert python(code, **limited.ENVIRONMENTS["avx2"]) == "avx2 AVX2\n"


@needs_avx2
def test_the_command_starts_anew() -> None:
    code = "from reluctant.bench import limited; limited.ensure('avx2', ['--version'])"
    assert python(code, NUMBA_CPU_NAME="").startswith("reluctant ")


def test_what_is_limited_is_not_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in limited.ENVIRONMENTS["avx2"].items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(limited, "start_anew", lambda *_: pytest.fail("started"))
    limited.ensure("avx2", [])
    limited.ensure(None, [])


@needs_avx2
@pytest.mark.parametrize("key", limited.ENVIRONMENTS["avx2"])
def test_each_limit_counts(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in limited.ENVIRONMENTS["avx2"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(key, "")
    started: list[Any] = []
    monkeypatch.setattr(limited, "start_anew", lambda *given: started.append(given))
    limited.ensure("avx2", ["bench", "--quick"])
    assert started == [("avx2", ["bench", "--quick"])]


def test_what_cannot_be_limited_is_left_out() -> None:
    assert limited.peers("avx2", []) == ["compile", "oneDNN"]
    assert limited.peers("avx2", ["oneDNN"]) == ["oneDNN"]
    assert limited.peers("avx2", ["none"]) == ["none"]
    assert limited.peers(None, ["OpenVINO"]) == ["OpenVINO"]
    assert limited.peers(None, []) == []
    with pytest.raises(ReluctantError, match="can be limited to avx2"):
        limited.peers("avx2", ["OpenVINO"])


def test_there_are_no_other_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(app, ["bench", "--as", "avx1024"]).exit_code == 2
    monkeypatch.setattr(integer, "CAPABILITY", "none")
    with pytest.raises(ReluctantError, match="nothing like it"):
        limited.ensure("avx2", [])


@pytest.mark.parametrize("quick", [[], ["--quick"]])
def test_the_peers_and_the_heading(quick: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def run(cells: Any, **options: Any) -> Result:
        asked.append(options)
        return Result([], 4e10, 0.0, "highest", table="the one", limited_to=options["limited_to"])

    monkeypatch.setattr(reluctant.bench, "run_bench", run)
    monkeypatch.setattr(limited, "ensure", lambda *_: None)
    done = CliRunner().invoke(app, ["bench", "--as", "avx2", *quick])
    assert done.exit_code == 0, done.output
    assert asked[0]["names"] == (["oneDNN"] if quick else ["compile", "oneDNN"])
    assert "As on a processor with avx2" in done.stdout
    assert "onnxruntime" not in done.stdout
    assert "table of limits: the one" in done.stdout


def test_the_table_is_named_in_full() -> None:
    text, name = io.StringIO(), "measured here, /home/[bold]me/" + 20 * "far/" + "ways.json"
    show(Result([], 4e10, 0.0, "highest", table=name), Console(file=text, width=80))
    assert name in text.getvalue()
    assert "As on" not in text.getvalue()
    written = Result([], 4e10, 0.0, "highest", table=name).to_json()
    assert (written["table"], written["limited_to"]) == (name, None)
    assert (written["capability"], written["threads"]) == (
        integer.CAPABILITY,
        torch.get_num_threads(),
    )
