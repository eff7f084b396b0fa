"""`reluctant translate`: from texts, files and pipes to lines, and what is refused."""

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from reluctant.cli import app
from reluctant.errors import ReluctantError
from reluctant.transformer import Translator
from tests.translators import learned, sentences

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")
LINES = [*sentences(5), "", *sentences(4, seed=2)]
SHORT = ["--max-length", "6", "--no-engine"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned(tmp_path_factory.mktemp("learned"), 60, torch.float16)


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[str]:
    found = Translator(folder, engine=False).translate(LINES, max_length=6)
    assert len(set(found)) > 5
    return found


def translate(folder: Path, *arguments: str, stdin: str | bytes | None = None) -> Result:
    arguments = ("translate", "--model", str(folder), *arguments, *SHORT)
    return CliRunner().invoke(app, arguments, input=stdin)


def test_texts_and_stdin_and_files(folder: Path, expected: list[str], tmp_path: Path) -> None:
    text = "".join(f"{line}\n" for line in LINES)
    file, out = tmp_path / "in.txt", tmp_path / "out.txt"
    file.write_text(text, encoding="utf-8")
    wanted = "".join(f"{line}\n" for line in expected)
    for result in (
        translate(folder, *LINES),
        translate(folder, stdin=text),
        translate(folder, "--batch-size", "2", stdin=text[:-1]),
        translate(folder, "--input", str(file), "--batch-size", "3"),
    ):
        assert result.exit_code == 0, result.output
        assert result.stdout == wanted
        assert result.stderr == ""
    assert translate(folder, "--input", str(file), "--output", str(out)).stdout == ""
    assert out.read_text(encoding="utf-8") == wanted
    assert translate(folder, "--output", str(out), stdin=f"{LINES[0]}\n").stdout == ""
    assert out.read_text(encoding="utf-8") == f"{expected[0]}\n"
    assert translate(folder, stdin="").stdout == ""


def test_the_engine_and_the_model_from_the_environment(
    folder: Path, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELUCTANT_MODEL", str(folder))
    threads = torch.get_num_threads()
    arguments = ["translate", LINES[0], "--max-length", "6", "--threads", "1"]
    try:
        result = CliRunner().invoke(app, arguments)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert (result.exit_code, result.stdout) == (0, f"{expected[0]}\n")


def test_json_and_scores_and_several(folder: Path) -> None:
    lines = ["sun moon.", "", "old stone falls!"]
    found = Translator(folder, engine=False).translations(lines, beam=3, best=2, max_length=6)
    search = ["--beam", "3", "--best", "2"]
    stdin = "\n".join(lines)
    objects = [
        json.loads(line)
        for line in translate(folder, *search, "--json", stdin=stdin).stdout.splitlines()
    ]
    assert [each["source"] for each in objects] == lines
    for each, translations in zip(objects, found, strict=True):
        assert [value["text"] for value in each["translations"]] == [t.text for t in translations]
        for value, t in zip(each["translations"], translations, strict=True):
            assert value["tokens"] == list(t.tokens)
            assert value["score"] == pytest.approx(t.score)
            assert value["log_probability"] == pytest.approx(t.log_probability)
    rows = translate(folder, *search, "--batch-size", "1", stdin=stdin).stdout
    assert rows == "".join(
        f"{number}\t{t.score:.4f}\t{t.text}\n"
        for number, translations in enumerate(found, 1)
        for t in translations
    )
    greedy = Translator(folder, engine=False).translations(lines, max_length=6)
    rows = translate(folder, "--scores", stdin=stdin).stdout
    assert rows == "".join(f"{best.score:.4f}\t{best.text}\n" for (best,) in greedy)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_line_feed_in_a_translation_is_no_end_of_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.setattr(Translator, "_text", lambda self, targets: "one\r\ntwo")
    result = translate(folder, *options, stdin="sun\n")
    assert len(result.stdout_bytes.split(b"\n")) == 2
    assert result.stdout in ("one  two\n", result.stdout if options else "")


def test_bytes_that_are_no_text(folder: Path, tmp_path: Path) -> None:
    text = b"sun moon.\nna\xefve\nold stone."
    result = translate(folder, stdin=text)
    whole = Translator(folder, engine=False)
    wanted = whole.translate(["sun moon.", "na\ufffdve", "old stone."], max_length=6)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == wanted
    assert result.stderr.startswith("reluctant: line 2, replaced by U+FFFD")
    assert len(result.stderr.splitlines()) == 1
    file, out = tmp_path / "in.txt", tmp_path / "out.txt"
    file.write_bytes(text)
    result = translate(folder, "--input", str(file), "--output", str(out))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "line 2" in result.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text", "--input", "file"], "expected texts or --input, got both"),
        (["--input", "nowhere.txt"], "expected a file of lines, got nowhere.txt"),
        (["text", "--best", "2"], "best from 1 to beam"),
        (["text", "--output", "no/where"], "create no first"),
        (["text", "--target-lang", "de"], "expected no source_lang and target_lang"),
        (["--length-penalty", "-1"], "length-penalty"),
        (["text", "--model", "no/model"], "there is none"),
    ],
)
def test_refusals_before_anything_is_read(
    folder: Path, arguments: list[str], message: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["translate", "--model", str(folder), *SHORT, *arguments])
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_an_error_on_the_way_leaves_the_old_output(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> list[str]:
        raise ReluctantError("expected this, got that")

    monkeypatch.setattr(Translator, "translate", fail)
    out = tmp_path / "out.txt"
    out.write_text("old")
    result = translate(folder, "--output", str(out), stdin="sun\n")
    assert (result.exit_code, result.stderr) == (2, "reluctant: expected this, got that\n")
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def command(folder: Path, *arguments: str) -> list[str]:
    translate = ["translate", "--model", str(folder), *SHORT, "--threads", "1", *arguments]
    return [sys.executable, "-m", "reluctant", *translate]


def started(folder: Path) -> "subprocess.Popen[bytes]":
    """With pipes that Python buffers, in a locale that is not UTF-8."""
    return subprocess.Popen(
        command(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, "PYTHONUNBUFFERED": "", "PYTHONIOENCODING": "latin-1"},
    )


def answer(process: "subprocess.Popen[bytes]", line: str) -> str:
    """What comes after this line was written, and nothing more."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{line}\n".encode())
    if not select.select([process.stdout], [], [], 300)[0]:
        process.kill()
    return process.stdout.readline().decode()


def test_each_line_is_answered_before_the_next_is_written(
    folder: Path, expected: list[str]
) -> None:
    with started(folder) as process:
        for line, translation in zip(LINES[:7], expected, strict=False):
            assert answer(process, line) == f"{translation}\n"
        rest, messages = process.communicate(f"{LINES[7]}\n{LINES[8]}".encode(), timeout=300)
    assert rest.decode() == f"{expected[7]}\n{expected[8]}\n"
    assert (process.returncode, messages) == (0, b"")


def test_a_closed_pipe_ends_it_quietly(folder: Path, expected: list[str]) -> None:
    with started(folder) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert answer(process, LINES[0]) == f"{expected[0]}\n"
        process.stdout.close()
        process.stdin.write(f"{LINES[1]}\n".encode())
        assert process.wait(timeout=300) == 0
        assert process.stderr.read() == b""


def test_a_terminal_is_told_what_to_do(folder: Path) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    os.write(ours, b"sun moon.\n\x04")  # Ctrl-D
    done = subprocess.run(command(folder), stdin=theirs, capture_output=True, check=False)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert b"Ctrl-D" in done.stderr
    os.close(ours)
    os.close(theirs)


def test_a_bar_on_a_terminal_leaves_stdout_alone(
    folder: Path, expected: list[str], tmp_path: Path
) -> None:
    pty = pytest.importorskip("pty")
    (tmp_path / "in.txt").write_text("\n".join(LINES), encoding="utf-8")
    ours, theirs = pty.openpty()
    arguments = command(folder, "--input", str(tmp_path / "in.txt"), "--batch-size", "2")
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=theirs, check=False)
    assert done.returncode == 0
    assert done.stdout.decode() == "".join(f"{line}\n" for line in expected)
    os.close(theirs)
    assert b"translating" in os.read(ours, 1 << 16)
    os.close(ours)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "from reluctant.cli import app; app(['translate', '--help'], standalone_mode=False)\n"
        "import sys; heavy = 'torch', 'numba', 'numpy', 'tokenizers'\n"
        "print([each for each in heavy if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "RELUCTANT_MODEL" in done.stdout
