"""How much memory a training step takes: the peak of a process of its own.

`ru_maxrss` would not do: a process that was started by a larger one begins with that one's peak
(Linux hands it on when a program is loaded). `VmHWM` in `/proc/self/status` is the process's own.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from reluctant.bench.children import answer, processes
from reluctant.bench.train.grid import Cell

NAMES = ("eager", "checkpoint", "ours")
DENSITY = 0.05  # that memory is looked at; or the nearest one
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Memory:
    """Of one cell: bytes by contender. before: of the process with its libraries and weights, after
    a step with few tokens; added: by steps, at their peak."""

    kind: str
    dtype: str
    tokens: int
    d_model: int
    d_ff: int
    gated: bool
    density: float
    before: dict[str, int]
    added: dict[str, int]


def available() -> bool:
    """Whether the system says how much memory a process has had."""
    return STATUS.exists() and os.access(CLEAR, os.W_OK)


def largest(cells: Iterable[Cell]) -> list[Cell]:
    """Of each kind and dtype the cell with the largest hidden vectors, all tokens' together."""
    found: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        key = cell.kind, cell.dtype
        if key not in found or _size(cell) > _size(found[key]):
            found[key] = cell
    return list(found.values())


def _size(cell: Cell) -> tuple[int, int, float]:
    return cell.tokens * cell.shape.d_ff, cell.products, -abs(cell.density - DENSITY)


def measure(cell: Cell, names: Sequence[str] = NAMES) -> Memory:
    """Let a process for each contender take some steps.

    Raises:
        ReluctantError: one of them has ended early.
    """
    before, added = {}, {}
    for name in names:
        with processes(["-m", "reluctant.bench.train.worker", *_arguments(cell, name)], 1) as (
            one,
        ):
            told = json.loads(answer(one))
        before[name], added[name] = told["before"], told["peak"] - told["before"]
    shape = cell.shape
    sizes = (cell.tokens, shape.d_model, shape.d_ff, shape.gated, cell.density)
    return Memory(cell.kind, cell.dtype, *sizes, before, added)


def _arguments(cell: Cell, name: str) -> list[str]:
    numbers = cell.tokens, cell.shape, cell.dtype, cell.density, name, torch.get_num_threads()
    return [cell.kind, *(str(each) for each in numbers)]


def bytes_now(field: str) -> int:
    """VmRSS, what this process has in memory, or VmHWM, the most that it has had."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    """VmHWM begins anew with what is in memory now."""
    CLEAR.write_text("5", encoding="ascii")
