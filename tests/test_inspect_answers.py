"""The model's own answers: how long they are, what Ctrl-C leaves of them, and what is told."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inspected import LINES, MAKERS, look
from reluctant.errors import ReluctantError
from reluctant.lab.inspect import Options, run_inspection, subject_of
from reluctant.lab.inspect.ours import Ours
from reluctant.lab.inspect.text import Lines
from reluctant.lab.instruments import Instrument
from reluctant.translation.vocabulary import EOS
from translators import sentences, untrained

pytestmark = pytest.mark.usefixtures("one_thread", "briefly")


def test_an_answer_is_no_longer_than_a_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be 50 tokens longer than its source, and no more than the counts by position are."""
    tried = MAKERS["post-norm"]()
    with monkeypatch.context() as patch:
        tried.model.linear.weight.data[EOS] = 0.0  # others are above: it never ends by itself
        patch.setattr("reluctant.lab.inspect.open.LONGEST", 20)
        record = look(tried, ["a b " * 9], targets=None, limit=1)
    assert record.text.by_stack == {"encoder": 20, "decoder": 20}
    record = look(tried, ["a b "], targets=None, limit=1)
    assert record.text.by_stack["decoder"] == 1 + record.text.by_stack["encoder"] + 50


def test_a_failure_of_ours_is_not_called_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("an instrument is broken")

    tried = MAKERS["pre-norm"]()
    monkeypatch.setattr(Instrument, "add", broken)
    with pytest.raises(RuntimeError, match="an instrument is broken"):
        look(tried)
    monkeypatch.undo()
    monkeypatch.setattr(type(tried.model), "forward", broken)
    monkeypatch.setattr(type(tried.model.model), "forward", broken)
    with pytest.raises(ReluctantError, match="does not run on this text: RuntimeError"):
        look(tried)


def test_what_was_translated_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although it was stopped meanwhile."""
    tried, said, steps = MAKERS["post-norm"](), list[int](), list[str]()
    plain = Ours.answers

    def answers(self: Ours, model: Any, sources: Any, most: Any = None) -> list[list[int]]:
        said.append(len(sources))
        return plain(self, model, sources, most)

    monkeypatch.setattr(Ours, "answers", answers)
    record = run_inspection(
        subject_of(tried.model, tried.words),
        Lines(sentences(200)),
        Options(turn=0.0),
        translated=True,
        stopped=lambda: max(said, default=0) > 1,
        on_step=steps.append,
    )
    batch = max(said)
    assert (record.text.sequences, record.text.stopped) == (batch, "interrupted")
    assert steps[1:3] == ["translating", "reading"]


def pressed(
    folder: Path, when: str, call: int, *arguments: object
) -> "subprocess.CompletedProcess[str]":
    """`reluctant inspect` in a process of its own, which presses Ctrl-C when a function of the
    class `Ours` is called for the first time, 1, or later.
    """
    code = f"""
import signal
from reluctant.lab.inspect.ours import Ours
plain, calls = Ours.{when}, []
def press(self, *arguments):
    calls.append(arguments)
    if len(calls) == {call}:
        signal.raise_signal(signal.SIGINT)
    return plain(self, *arguments)
Ours.{when} = press
import reluctant.cli
reluctant.cli.main()
"""
    line = [sys.executable, "-c", code, "inspect", str(folder), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_ctrl_c_while_it_translates(tmp_path: Path) -> None:
    folder = untrained(tmp_path / "mine", d_model=16, d_ff=24)
    (tmp_path / "text").write_text("\n".join(LINES * 50))
    out = tmp_path / "out.json"
    # the first answer of all is but a trial
    done = pressed(folder, "answers", 2, "--text", tmp_path / "text", "--json", out)
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    found = json.loads(out.read_text())["text"]
    assert (found["stopped"], found["whole"]) == ("interrupted", False)
    assert 1 < found["sequences"] < 200


def test_ctrl_c_before_anything_is_read(tmp_path: Path) -> None:
    folder = untrained(tmp_path / "mine", d_model=16, d_ff=24)
    (tmp_path / "text").write_text("\n".join(LINES))
    done = pressed(folder, "encode", 1, "--text", tmp_path / "text", "--target", tmp_path / "text")
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert "no time to read it" in done.stderr
