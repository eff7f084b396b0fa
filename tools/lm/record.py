"""A run's figures as JSON lines: a header, each step, each validation, the end."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reluctant.errors import ReluctantError
from reluctant.files import write_atomic
from reluctant.machine import cpu_model, versions

WINDOW = 25  # steps that a loss is smoothed over
Line = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What a file holds. steps: in order; validations: by step; end: the last line of a run that is
    done.
    """

    header: Line
    steps: list[Line]
    validations: dict[int, float]
    end: Line

    @property
    def settings(self) -> Line:
        """As `train.Settings` has them."""
        return self.header["settings"]  # type: ignore[no-any-return]

    @property
    def text(self) -> str:
        """The fingerprint of what was learned."""
        return str(self.header["text"])

    @property
    def ended(self) -> bool:
        """Whether the run is done."""
        return bool(self.end)

    @property
    def label(self) -> str:
        """For people."""
        name = "reluctant" if self.settings["engine"] else "torch"
        name += ", penalty" if self.settings["penalty"] else ""
        return name + (", 1 thread" if self.settings["threads"] == 1 else "")

    def losses(self) -> list[float]:
        """Of the steps, smoothed; the first is of step WINDOW."""
        return smooth([line["loss"] for line in self.steps])

    def seconds(self) -> list[float]:
        """From the start to the end of each step."""
        total, found = 0.0, []
        for line in self.steps:
            total += line["seconds"]
            found.append(total)
        return found

    def densities(self) -> list[tuple[int, list[float]]]:
        """Steps that have one, and that of each layer."""
        return [
            (line["step"], line["density"])
            for line in self.steps
            if line["density"] and None not in line["density"]
        ]


def smooth(numbers: list[float], window: int = WINDOW) -> list[float]:
    """Means of so many numbers on end; of all there are, if these are fewer.

    >>> smooth([1, 2, 3, 4], window=2)
    [1.5, 2.5, 3.5]
    """
    window = max(min(window, len(numbers)), 1)
    return [sum(numbers[i : i + window]) / window for i in range(len(numbers) - window + 1)]


def begin(file: Path, command: str, settings: Line, facts: Line) -> None:
    """Start a file anew."""
    machine: Line = {"machine": cpu_model(), "python": sys.version.split()[0]}
    machine |= {"versions": versions("reluctant", "torch", "numba", "tokenizers")}
    machine |= {"capability": torch.backends.cpu.get_cpu_capability()}
    header = {"command": command, **machine, **facts, "settings": settings}
    write_atomic(file, json.dumps(header) + "\n")


def append(file: Path, line: Line) -> None:
    """Add a line."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(line) + "\n")


def cut(file: Path, step: int) -> None:
    """Forget what came after this step's checkpoint."""
    lines = file.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if _step_of(line) <= step]
    write_atomic(file, "\n".join(kept) + "\n")


def _step_of(line: str) -> float:
    try:
        found = json.loads(line)
    except ValueError:  # half a line of a process that was killed
        return float("inf")
    return float(found.get("step", 0))


def read(file: Path) -> Record:
    """What a run has written so far. Raises ReluctantError for another file."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # half a line of a process that was killed
            continue
    if not found or "settings" not in found[0]:
        raise ReluctantError(f"expected {file} to be what python -m tools.lm has written")
    steps = [line for line in found if "loss" in line]
    validations = {line["step"]: line["validation"] for line in found if "validation" in line}
    end = found[-1] if "peak_memory" in found[-1] else {}
    return Record(found[0], steps, validations, end)


def read_all(folder: Path) -> list[Record]:
    """Those of a folder with some steps: torch's first, then as they are named."""
    found = [read(file) for file in sorted(folder.glob("*.jsonl"))]
    found = [each for each in found if each.steps]
    if not found:
        raise ReluctantError(f"expected runs of python -m tools.lm in {folder}; there are none")
    return sorted(found, key=_order)


def _order(run: Record) -> tuple[bool, bool, bool]:
    settings = run.settings
    return settings["threads"] == 1, bool(settings["penalty"]), settings["engine"]
