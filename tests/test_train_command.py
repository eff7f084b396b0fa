"""`reluctant train` as a newcomer runs it, and as it is when something kills it."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from learning import TINY, sentences, some_data, write_tsv
from reluctant import files
from reluctant.cli import app
from reluctant.transformer import load
from reluctant.translation import checkpoint, journal
from reluctant.translation import train as training
from reluctant.translation.data import Data
from reluctant.translation.train import Run

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ["--d-model", "32", "--heads", "2", "--d-ff", "64", "--encoder-layers", "1"]
SMALL += ["--decoder-layers", "1", "--vocab-size", "300", "--batch-tokens", "200"]


def test_a_newcomers_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten lines, twenty steps, a translation."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RELUCTANT_MODEL", raising=False)
    lines = [f"{english}\t{german}" for english, german in sentences(10)]
    Path("text.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "reluctant"]
    learn = [*command, "train", "text.tsv", "--out", "model", "--steps", "20", *SMALL]
    done = subprocess.run(learn, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "to learn from" in done.stderr
    assert "the model is in model" in done.stderr
    said = [*command, "translate", "--model", "model", lines[0].split("\t")[0], "Hello."]
    done = subprocess.run(said, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    again = CliRunner().invoke(app, [*learn[3:]])
    assert again.exit_code == 0
    assert "nothing left to do" in again.output


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return some_data(tmp_path_factory.mktemp("text"))


PLAIN = replace(TINY, engine=False, steps=5, every=2, average=2, score_sentences=2)


class Killed(BaseException):
    """The end, at some moment."""


def state(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"metrics": []}
    for line in journal.read(folder / journal.NAME).steps:
        found["metrics"].append((line["step"], line["loss"]))
    for name, weight in load(folder).state_dict().items():
        found[name] = weight.view(torch.uint8).numpy().tobytes()
    for name, tensor in checkpoint.read(folder / checkpoint.NAME)[0].items():
        found[f"checkpoint {name}"] = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    return found


def test_killed_between_any_two_writes_it_goes_on_with_the_same_bits(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [10**9]

    def counted(real: Callable[..., Any], half: Callable[..., Any] | None = None) -> Any:
        def call(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                if half is not None:
                    half(*arguments)
                raise Killed
            return real(*arguments)

        return call

    def half_a_line(file: Path, line: dict[str, Any]) -> None:
        with file.open("a") as opened:
            opened.write('{"step": 99, "lo')

    atomic = counted(files.write_atomic)
    for module in ("checkpoint", "journal", "vocabulary"):
        monkeypatch.setattr(f"reluctant.translation.{module}.write_atomic", atomic)
    monkeypatch.setattr("reluctant.transformer.io.write_atomic", atomic)
    monkeypatch.setattr(checkpoint, "forget", counted(checkpoint.forget))
    monkeypatch.setattr(training.journal, "append", counted(journal.append, half_a_line))
    whole = tmp_path / "whole"
    Run(whole, data, PLAIN).train()
    writes = 10**9 - left[0]
    assert writes > 20
    wanted = state(whole)
    for moment in range(writes):
        folder, left[0] = tmp_path / str(moment), moment
        with pytest.raises(Killed):
            Run(folder, data, PLAIN).train()
        left[0] = 10**9
        assert Run(folder, data, PLAIN).train()
        found = state(folder)
        assert found.keys() == wanted.keys()
        differ = [key for key in found if found[key] != wanted[key]]
        assert differ == [], moment


def test_sigkill_and_ctrl_c(tmp_path: Path) -> None:
    """And in the end the bits of a run that had neither."""
    text = write_tsv(tmp_path / "text.tsv")
    learn = [sys.executable, "-m", "reluctant", "train", str(text), "--no-engine", *SMALL]
    learn += ["--steps", "200", "--every", "20", "--score-sentences", "0", "--threads", "1"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    subprocess.run([*learn, "--out", str(whole)], check=True, capture_output=True)
    metrics = out / journal.NAME

    def until(steps: int, number: signal.Signals) -> tuple[int, bytes]:
        process = subprocess.Popen([*learn, "--out", str(out)], stderr=subprocess.PIPE)
        while process.poll() is None:
            if metrics.exists() and len(journal.read(metrics).steps) > steps:
                process.send_signal(number)
                break
            time.sleep(0.01)
        _, said = process.communicate()
        return process.returncode, said

    assert until(47, signal.SIGKILL)[0] == -signal.SIGKILL
    code, said = until(70, signal.SIGINT)
    assert code == 130, said
    assert b"interrupted; the same command goes on" in said
    subprocess.run([*learn, "--out", str(out)], check=True, capture_output=True)
    found, wanted = state(out), state(whole)
    assert [key for key in wanted if found[key] != wanted[key]] == []


def test_two_processes_do_not_learn_in_one_folder(tmp_path: Path) -> None:
    text, out = write_tsv(tmp_path / "text.tsv"), tmp_path / "out"
    code = "import sys, pathlib; from reluctant.translation import place; "
    code += "place.own(pathlib.Path(sys.argv[1])); print('owned', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"owned\n"
        found = CliRunner().invoke(app, ["train", str(text), "--out", str(out), *SMALL])
        assert found.exit_code == 2
        assert "another process learns there" in found.stderr


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text.tsv", b"\x7fELF\x00\x01\x02" * 100, "expected"),
        ("text.tsv", "Grüße\tgreetings\n".encode("latin-1") * 50, "expected"),
        ("text.tsv", b"no tab here\n" * 50, "tab"),
        ("text.tsv", b"", "expected"),
        ("text.tsv", b"\t\n" * 50, "empty lines"),
        ("text.doc", b"a\tb\n", "expected"),
        ("gone.tsv", None, "gone.tsv"),
    ],
)
def test_bad_text_is_a_reason_and_exit_code_2(
    name: str, content: bytes | None, said: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    found = CliRunner().invoke(app, ["train", str(file), "--out", str(tmp_path / "out"), *SMALL])
    assert found.exit_code == 2, found.output
    assert said in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "out").exists()


def test_bad_options(tmp_path: Path) -> None:
    text = write_tsv(tmp_path / "text.tsv")
    run = CliRunner().invoke
    arguments = ["train", str(text), "--out", str(tmp_path / "out")]
    assert "d_ff: expected" in run(app, [*arguments, "--d-ff", "0"]).stderr
    assert "a divisor of d_model" in run(app, [*arguments, *SMALL, "--heads", "5"]).stderr
    assert "settings as TOML" in run(app, [*arguments, "--config", str(text)]).stderr
    taken = tmp_path / "taken"
    taken.write_text("a file")
    assert run(app, ["train", str(text), "--out", str(taken), *SMALL]).exit_code == 2


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    text = write_tsv(tmp_path / "text.tsv")
    out = tmp_path / "out"
    found = CliRunner().invoke(app, ["train", str(text), "--out", str(out), "--dry-run", *SMALL])
    assert found.exit_code == 0, found.output
    assert "parameters" in found.output
    assert not out.exists()
