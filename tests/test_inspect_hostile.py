"""`reluctant inspect` on texts, words, names of files and errors that a terminal would obey."""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from hostile import HOSTILE
from inspected import LINES, command, letters, saved
from translators import untrained

pytestmark = pytest.mark.usefixtures("one_thread", "briefly")
WILD = {"{": "\x1b", "|": "\x9b", "}": "\u202e"}  # for which of the letters they stand


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A language model's folder."""
    return saved(tmp_path / "opt")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(LINES))
    return path


def obeyed(shown: str) -> set[str]:
    """What a terminal obeys instead of showing it."""
    turns = {
        c for c in shown if unicodedata.bidirectional(c) in ("RLO", "LRO", "RLE", "LRE", "PDF")
    }
    return turns | {c for c in shown if unicodedata.category(c) == "Cc" and c != "\n"}


def wild_letters() -> Any:
    """The tokenizer of letters, with three that a terminal obeys among them."""
    words = letters(around=False)
    state = json.loads(words.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    state["model"]["vocab"] = {WILD.get(name, name): id for name, id in vocabulary.items()}
    words._tokenizer = Tokenizer.from_str(json.dumps(state))
    return words


def test_nothing_that_a_terminal_obeys_comes_out(tmp_path: Path) -> None:
    """Neither from the text nor from the vocabulary, which both have it."""
    model = saved(tmp_path / "opt", wild_letters())
    first = "".join(f"{character}a" for character in WILD.values())
    (tmp_path / "text").write_text(f"{first}\nA dog ran home.\n")
    shown = command(model, "--text", tmp_path / "text")
    assert shown.exit_code == 0, shown.output
    assert not obeyed(shown.stdout)
    assert "\ufffda\ufffda\ufffda\n" in shown.stdout  # the sentence
    result = command(model, "--text", tmp_path / "text", "--json", "-")
    assert result.stdout.isascii()
    assert not obeyed(result.stdout)
    found = json.loads(result.stdout)
    assert found["sentences"][0]["text"] == first
    assert {each["token"] for each in found["layers"][0]["density"]["by_token"]} >= set(
        WILD.values()
    )


@pytest.mark.parametrize("kind", ["lines", "one line", "binary", "blank lines"])
def test_hostile_texts(model: Path, text: Path, kind: str) -> None:
    contents = {
        "lines": "\n".join(HOSTILE).encode(),
        "one line": "<script>[/red]é".encode() * 3000,
        "binary": bytes(range(256)) * 8,
        "blank lines": b"\n\n \t\n\r\n\n" * 99 + b"x",
    }
    text.write_bytes(contents[kind])
    limit = ["--limit", "400"] if kind == "one line" else []
    shown = command(model, "--text", text, *limit)
    assert shown.exit_code == 0, shown.output
    assert not obeyed(shown.stdout)
    result = command(model, "--text", text, "--json", "-", *limit)
    assert result.exit_code == 0, result.output
    assert result.stdout.isascii()
    assert not obeyed(result.stdout)
    found = json.loads(result.stdout)
    assert bool(found["text"]["replaced"]) == (kind == "binary")
    assert found["text"]["tokens"] == found["layers"][0]["tokens"] > 0
    counts = [token["count"] for token in found["layers"][0]["density"]["by_token"]]
    assert sum(counts) == found["text"]["tokens"]


def test_hostile_texts_of_ours(tmp_path: Path) -> None:
    folder = untrained(tmp_path / "mine", d_model=16, d_ff=24)
    (tmp_path / "a").write_text("\n".join(HOSTILE))
    options = "--text", tmp_path / "a", "--target", tmp_path / "a", "--json", "-"
    result = command(folder, *options)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["text"]["sequences"] >= len(HOSTILE) - 4


def test_names_of_files_that_are_no_text(model: Path, tmp_path: Path) -> None:
    """In a process of its own, whose arguments are bytes, as all are."""
    folder = os.fsencode(tmp_path)
    with open(folder + b"/caf\xe9\x1b.txt", "w") as file:  # noqa: PTH123  a Path is no bytes
        file.write("\n".join(LINES))
    code = b"import sys; from reluctant.cli import main; main()"
    for out in (["--json", os.fsencode(tmp_path / "out.json")], ["--json", b"-"]):
        line = [os.fsencode(sys.executable), b"-c", code, b"inspect", os.fsencode(model), b"--text"]
        line += [folder + b"/caf\xe9\x1b.txt", *map(os.fsencode, out), b"--sentence", b"a\xe9"]
        done = subprocess.run(line, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        written = (tmp_path / "out.json").read_bytes() if out[1] != b"-" else done.stdout
        found = json.loads(written.decode())
        assert found["text"]["name"] == "caf\ufffd\x1b.txt"
        assert "caf\ufffd" in found["command"]
        assert found["sentences"][0]["text"] == "a\ufffd"
    assert not obeyed(done.stdout.decode())


def test_what_is_complained_of_is_printable(model: Path, tmp_path: Path) -> None:
    wild = tmp_path / "\x1b[31m\u202e.txt"
    wild.touch()
    result = command(model, "--text", wild)
    assert result.exit_code == 2
    assert "got none: \ufffd[31m\ufffd.txt" in result.stderr
    assert not obeyed(result.stderr)


def test_a_home_of_nobody(text: Path) -> None:
    result = command("~nobody-of-this-name/x", "--text", text)
    assert result.exit_code == 2
    assert "reluctant: expected a path, got ~nobody-of-this-name/x" in result.stderr


def test_a_text_from_a_pipe(model: Path, text: Path) -> None:
    found = []
    for named in (text, Path(f"/dev/fd/{_piped(text.read_bytes())}")):
        result = command(model, "--text", named, "--json", "-")
        assert result.exit_code == 0, result.output
        found.append(json.loads(result.stdout))
    assert found[0]["text"]["bytes"] == found[1]["text"]["bytes"]
    assert found[0]["layers"][0]["use"] == found[1]["layers"][0]["use"]


def _piped(content: bytes) -> int:
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    return reading
