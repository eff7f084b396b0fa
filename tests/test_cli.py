"""The commands around the runs: exit codes, files, messages. The runs have tests of their own."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import reluctant.bench
import reluctant.demo
from reluctant import __version__
from reluctant.bench import Row
from reluctant.cli import app
from reluctant.errors import ReluctantError


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def bench_result(error: float) -> reluctant.bench.Result:
    row = Row(
        phase="decode",
        dtype="float32",
        tokens=1,
        d_model=512,
        d_ff=2048,
        active=0.04,
        candidates=0.06,
        ours_us=50.0,
        peers={"eager": 300.0, "oneDNN": 200.0},
        ratio_best=4.0,
        ratio_eager=6.0,
        limit_share=0.5,
        achieved=50e9,
        limit=100e9,
        errors={"ours": 3e-7, "eager": 3e-7, "oneDNN": error},
        ways={"few": 9, "many": 0, "dense": 0, "training": 0},
        missing={"OpenVINO": "No module named 'openvino'"},
    )
    return reluctant.bench.Result([row], memory_bandwidth=40e9, load=0.0, precision="highest")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what the long runs return, or raise."""

    def become(outcome: Any) -> None:
        def run(*args: Any, **kwargs: Any) -> Any:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(reluctant.demo, "run_demo", run)
        monkeypatch.setattr(reluctant.bench, "run_bench", run)

    return become


@pytest.mark.parametrize(("error", "code"), [(3e-7, 0), (2e-3, 1), (float("nan"), 1)])
def test_bench_fails_where_outputs_disagree(runs: Any, error: float, code: int) -> None:
    runs(bench_result(error))
    result = invoke("bench")
    assert result.exit_code == code
    assert ("oneDNN is wrong" in result.stdout) == (code == 1)
    assert "OpenVINO is left out" in result.stdout


@pytest.mark.parametrize("command", ["demo", "bench"])
def test_a_missing_folder_is_refused_before_the_run(
    runs: Any, tmp_path: Path, command: str
) -> None:
    runs(AssertionError("it ran"))
    result = invoke(command, "--json", str(tmp_path / "nowhere" / "x.json"))
    assert result.exit_code == 2
    assert "nowhere" in result.stderr


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is taken for a model's until it is read."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.setenv("RELUCTANT_MODEL", str(folder))
    return folder


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("command", ["demo", "bench"])
def test_an_error_of_ours_is_one_line(runs: Any, command: str) -> None:
    runs(ReluctantError("expected this, got that"))
    result = invoke(command)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "reluctant: expected this, got that"
    assert "Traceback" not in result.output


def test_interruption_is_one_line_and_writes_nothing(model: Path) -> None:
    code = (
        "import sys, time, reluctant.cli, reluctant.demo\n"
        "def run(*args, **kwargs):\n"
        "    print('running', flush=True)\n"
        "    time.sleep(60)\n"
        "reluctant.demo.run_demo = run\n"
        "sys.argv = ['reluctant', 'demo', '--json', 'x.json']\n"
        "reluctant.cli.main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=model,
    ) as process:
        assert process.stdout is not None
        assert "running\n" in iter(process.stdout.readline, "")
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=30)
    assert process.returncode == 130
    assert messages.split("\n")[-2:] == ["reluctant: interrupted", ""]
    assert "Traceback" not in messages
    assert [file.name for file in model.iterdir()] == ["config.json"]


@pytest.mark.usefixtures("model")
def test_a_missing_extra_names_the_command_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    result = invoke("demo")
    assert result.exit_code == 2
    assert "pip install 'reluctant[translate]'" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["demo", "--sentences", "0"],
        ["bench", "--rounds", "0"],
        ["bench", "--densities", "much"],
        ["bench", "--tokens", "1,x"],
        ["bench", "--shapes", "1024"],
        ["bench", "--phases", "decoding"],
        ["bench", "--peers", "mine"],
        ["bench", "--quick", "--full"],
        ["bench", "--quick", "--shapes", "64/256"],
        ["bench", "--slow"],
    ],
)
def test_bad_usage(arguments: list[str]) -> None:
    assert invoke(*arguments).exit_code == 2


@pytest.mark.parametrize("percent", ["0", "100", "-0.5", "nan"])
def test_a_density_that_is_none(percent: str) -> None:
    result = invoke("bench", "--densities", percent)
    assert result.exit_code == 2
    assert "between 0 and 1" in result.stderr


def test_bench_measures_what_was_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run(cells: Any, **options: Any) -> reluctant.bench.Result:
        asked.append((cells, options))
        return bench_result(3e-7)

    monkeypatch.setattr(reluctant.bench, "run_bench", run)
    arguments = ["--tokens", "1,8", "--shapes", "64/256g", "--densities", "2", "--states", "warm"]
    result = invoke("bench", *arguments, "--peers", "oneDNN", "--rounds", "3")
    assert result.exit_code == 0, result.output
    cells, options = asked[0]
    assert [(c.phase, c.tokens, c.shape.gated, c.density, c.states) for c in cells] == [
        ("decode", 1, True, 0.02, ("warm",)),
        ("few", 8, True, 0.02, ("warm",)),
    ]
    assert (options["names"], options["rounds"]) == (["oneDNN"], 3)


def test_version() -> None:
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.stdout.strip() == f"reluctant {__version__}"
