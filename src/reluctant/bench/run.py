"""The cells of a run, one after the other, and what was measured of the machine beside them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from reluctant import ways
from reluctant.bench import limits, peers
from reluctant.bench.grid import Cell
from reluctant.bench.measure import measure
from reluctant.bench.row import Row
from reluctant.errors import ReluctantError
from reluctant.kernels import integer
from reluctant.machine import cpu_model, last_level_cache, versions


@dataclass(frozen=True)
class Result:
    """All rows, and what was measured of the machine beside them."""

    rows: list[Row]
    memory_bandwidth: float  # bytes/s
    load: float  # the system's load average (processes, over a minute) before the run
    precision: str  # torch's float32 matmul precision during the run
    skipped: dict[str, str] = field(default_factory=dict)  # cells that could not be had, and why
    table: str = ""  # of limits, that the engine went by
    limited_to: str | None = None  # the processor that all were told to be content with

    @property
    def agree(self) -> bool:
        """Whether every output was right."""
        return not any(row.wrong for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """What `--json` writes."""
        return {**asdict(self), **measured_on("onnxruntime", "openvino")}


def measured_on(*packages: str) -> dict[str, Any]:
    """What `--json` says of where it was measured. packages: whose versions are of interest,
    besides reluctant's and torch's."""
    return {
        "machine": cpu_model(),
        "capability": integer.CAPABILITY,
        "last_level_cache": last_level_cache(),
        "threads": torch.get_num_threads(),
        "versions": versions("reluctant", "torch", *packages),
    }


def load_average() -> float:
    """Processes that wanted a core in the last minute; 0 where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def run_bench(
    cells: Sequence[Cell],
    *,
    rounds: int = 5,
    names: Iterable[str] = tuple(peers.BUILDERS),
    limited_to: str | None = None,
    on_progress: Callable[[str, float], object] = lambda what, done: None,
) -> Result:
    """Time the engine and the peers that can be had here, in turns.

    Args:
        cells: of `reluctant.bench.grid`.
        rounds: turns of each implementation (see `reluctant.timing`).
        names: of the peers beside eager, from `reluctant.bench.peers.BUILDERS`.
        limited_to: how this process was limited (`reluctant.bench.limited`), for the heading.
        on_progress: is told what is being measured, and how many cells are done.

    Raises:
        ReluctantError: there are no cells, or a name is none.
    """
    names = list(names)
    peers.check_names(names)
    if not cells:
        raise ReluctantError("expected cells to measure; nothing fits this selection")
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    with full_precision() as precision:
        load = load_average()
        memory = limits.reading(limits.MEMORY_BYTES).measure()
        for number, cell in enumerate(cells):
            report = _reporter(cell, number, rounds, on_progress)
            try:
                rows += measure(cell, rounds=rounds, names=names, on_round=report)
            except ReluctantError as error:
                if cell.density is not None:  # only a real model may be absent
                    raise
                skipped[str(cell)] = str(error)
        on_progress("done", len(cells))
    table = ways.in_use().name
    return Result(rows, memory, load, precision, skipped, table, limited_to)


def _reporter(
    cell: Cell, number: int, rounds: int, on_progress: Callable[[str, float], object]
) -> Callable[[str], object]:
    on_progress(f"{cell}: building", number)
    step, done = 1 / (rounds * len(cell.states)), 0

    def on_round(state: str) -> None:
        nonlocal done
        done += 1
        on_progress(f"{cell}: {state}", number + done * step)

    return on_round


@contextmanager
def full_precision() -> Iterator[str]:
    """Float32 products in float32, whatever the process had chosen before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision(before)
