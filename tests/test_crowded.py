"""`reluctant bench --crowded` measures what it says, and leaves no process behind."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from reluctant.bench import children, crowded
from reluctant.cli import app
from reluctant.errors import ReluctantError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "D_MODEL": 64, "D_FF": 256, "TOKENS": (1,), "BUSY": (0, 2), "WORKERS": 2, "LAYERS": 3,
        "BLOCKS": 2, "TURN": 0.001, "WORK": 0.01,
    }.items():  # fmt: skip
        monkeypatch.setattr(crowded, name, value)


def lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_all_cells(small: None) -> None:
    seen: list[float] = []
    result = crowded.run_crowded(rounds=1, on_progress=lambda what, done: seen.append(done))
    assert seen[:-1] == [*range(5)]
    assert [(row.what, row.busy) for row in result.beside] == [
        (what, busy) for what in ("3 layers", "encoder of 2") for busy in (0, 2)
    ]
    assert [line.tokens for line in result.together] == [1]
    assert result.agree
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    for row in written["beside"]:
        assert row["ratio"] == pytest.approx(row["eager"][0] / row["engine"][0])
        assert 0 < row["error"] < 1e-5  # the engine has computed: its bits are not eager's
    for line in written["together"]:
        assert line["ratio"] == pytest.approx(line["engine"] / line["eager"])
    text = io.StringIO()
    crowded.show(result, Console(file=text, width=100))
    assert "encoder of 2" in text.getvalue()


def row(error: float) -> crowded.Beside:
    return crowded.Beside("12 layers", 1, 2, (90.0, 99.0), (30.0, 33.0), error)


@pytest.mark.parametrize(("error", "code"), [(3e-7, 0), (2e-3, 1), (float("nan"), 1)])
def test_the_command(error: float, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def run(**options: Any) -> crowded.Result:
        asked.append(options)
        line = crowded.Together(1, 4, 10.0, 40.0)
        return crowded.Result([row(error)], [line], 0.0, "the one")

    monkeypatch.setattr(crowded, "run_crowded", run)
    done = CliRunner().invoke(app, ["bench", "--crowded", "--rounds", "3"])
    assert done.exit_code == code, done.output
    assert asked[0]["rounds"] == 3
    assert "3.00x" in done.stdout
    assert "4.00x" in done.stdout
    assert ("outputs differ" in done.stdout) == (code == 1)


@pytest.mark.parametrize("other", [["--quick"], ["--tokens", "1"], ["--peers", "oneDNN"]])
def test_one_selection(other: list[str]) -> None:
    done = CliRunner().invoke(app, ["bench", "--crowded", *other])
    assert done.exit_code == 2
    assert "expected one selection" in done.stderr


def test_busy_processes_end_with_the_block() -> None:
    children: list[Any] = []

    def run() -> None:
        with crowded.busy_processes(2) as started:
            children.extend(started)
            assert [child.poll() for child in children] == [None, None]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert [child.returncode for child in children] == [-signal.SIGKILL] * 2


def test_a_process_that_cannot_start_is_said() -> None:
    with (
        pytest.raises(ReluctantError, match="has ended early"),
        children.processes(["-c", "pass"], 2),
    ):
        pass


@pytest.mark.skipif(not os.path.exists("/proc"), reason="looks at /proc")  # noqa: PTH110
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_none_outlives_a_run_that_is_killed(number: int) -> None:
    code = (
        "import signal, time, reluctant.cli\n"
        "from reluctant.bench import crowded\n"
        "def main():\n"
        "    with crowded.busy_processes(2) as children:\n"
        "        print(*(child.pid for child in children), flush=True)\n"
        "        time.sleep(60)\n"
        "reluctant.cli.app = main\n"
        "reluctant.cli.main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None
        pids = [int(pid) for pid in child.stdout.readline().split()]
        assert len(pids) == 2
        child.send_signal(number)
        child.wait()
    until = time.monotonic() + 60
    while any(map(lives, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(lives, pids))


def test_a_worker_ends_with_its_input() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reluctant.bench.worker"],
        input="", text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
