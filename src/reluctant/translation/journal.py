"""`metrics.jsonl`: what a run did, one JSON object a line, so that it can be watched and drawn."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reluctant.errors import ReluctantError
from reluctant.files import write_atomic

NAME = "metrics.jsonl"
Line = dict[str, Any]


@dataclass(frozen=True)
class Journal:
    """What a file holds: a header, a line for each step, and one for each validation."""

    header: Line
    steps: list[Line]
    validations: list[Line]

    @property
    def settings(self) -> Line:
        """As `Settings` has them."""
        return dict(self.header["settings"])


def begin(file: Path, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Start a file anew. facts: of the data, say."""
    from reluctant.machine import cpu_model, versions  # noqa: PLC0415  which loads torch

    header = {
        "command": " ".join([_program(), *sys.argv[1:]]),
        "machine": cpu_model(),
        "versions": versions("reluctant", "torch", "numba", "tokenizers"),
        **facts,
        "settings": dict(settings),
    }
    write_atomic(file, json.dumps(header) + "\n")


def append(file: Path, line: Mapping[str, Any]) -> None:
    """Add a line. Numbers that JSON does not have become null.

    Raises ReluctantError if the disk is full.
    """
    text = json.dumps({key: _plain(value) for key, value in line.items()}, allow_nan=False)
    try:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(text + "\n")
    except OSError as error:
        raise ReluctantError(f"expected room for a line in {file}: {error}") from error


def cut(file: Path, step: int) -> None:
    """Forget what came after this step."""
    kept = [line for line in _lines(file) if line.get("step", 0) <= step]
    write_atomic(file, "".join(json.dumps(line) + "\n" for line in kept))


def read(file: Path) -> Journal:
    """What a run has written so far. Raises ReluctantError for another file."""
    lines = _lines(file)
    if not lines or "settings" not in lines[0]:
        raise ReluctantError(f"expected {file} to be what `reluctant train` has written")
    steps = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "validation" in line]
    return Journal(lines[0], steps, validations)


def _program() -> str:
    name = Path(sys.argv[0]).name
    return "reluctant" if name == "__main__.py" else name


def _lines(file: Path) -> list[Line]:
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            value = json.loads(line)
        except ValueError:  # half a line of a process that was killed
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value
