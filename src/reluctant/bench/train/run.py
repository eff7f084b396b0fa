"""All training steps, one after the other, and what they were measured on."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from reluctant import ways
from reluctant.bench.peers import check_names
from reluctant.bench.run import full_precision, load_average, measured_on
from reluctant.bench.train import memory, peers
from reluctant.bench.train.grid import Cell
from reluctant.bench.train.measure import measure
from reluctant.bench.train.memory import Memory
from reluctant.bench.train.row import Row
from reluctant.errors import ReluctantError


@dataclass(frozen=True)
class Result:
    """All rows.

    memory: of the largest steps; skipped: where it could not be had, and why. load: the system's
    load average before the run; precision: torch's float32 matmul precision in it; table: of
    limits, that ours went by; limited_to: the processor that all were told to be content with.
    """

    rows: list[Row]
    memory: list[Memory] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    load: float = 0.0
    precision: str = ""
    table: str = ""
    limited_to: str | None = None

    @property
    def agree(self) -> bool:
        """Whether every output and every gradient was right."""
        return not any(row.wrong for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """What `--json` writes. Numbers that are none are null."""
        rows = [
            asdict(row)
            | {name: getattr(row, name) for name in ("ratio_eager", "ratio_best", "ratio_kept")}
            for row in self.rows
        ]
        written: dict[str, Any] = _finite({**asdict(self), "rows": rows, **measured_on("numba")})
        return written


def run_train(
    cells: Sequence[Cell],
    *,
    rounds: int = 5,
    names: Iterable[str] = tuple(peers.BUILDERS),
    limited_to: str | None = None,
    on_progress: Callable[[str, float], object] = lambda what, done: None,
) -> Result:
    """Time training steps of ours and of the peers that can be had here, in turns; then look at the
    memory that the largest take.

    Args:
        cells: of `reluctant.bench.train.grid`.
        rounds: turns of each (see `reluctant.timing`).
        names: of the peers beside eager, from `reluctant.bench.train.peers.BUILDERS`.
        limited_to: how this process was limited (`reluctant.bench.limited`), for the heading.
        on_progress: is told what is being measured, and how many of `steps(cells)` are done.

    Raises:
        ReluctantError: there are no cells, or a name is none.
    """
    names = list(names)
    check_names(names, peers.BUILDERS)
    if not cells:
        raise ReluctantError("expected cells to measure; nothing fits this selection")
    rows: list[Row] = []
    started, done, what = 0, 0.0, ""

    def on_cell(cell: Cell) -> None:
        nonlocal started, done, what
        done, started, what = started, started + 1, str(cell)
        on_progress(what, done)

    def on_round() -> None:
        nonlocal done
        done += 1 / (rounds + 1)
        on_progress(what, done)

    with full_precision() as precision:
        load = load_average()
        for _, group in groupby(cells, key=lambda cell: cell.group):
            rows += measure(
                list(group), rounds=rounds, names=names, on_cell=on_cell, on_round=on_round
            )
        found, skipped = list[Memory](), dict[str, str]()
        for number, cell in enumerate(_looked_at(cells)):
            on_progress(f"memory of {cell}", len(cells) + number)
            asked = [n for n in memory.NAMES if n in ("eager", "ours", *names)]
            try:
                found.append(memory.measure(cell, asked))
            except ReluctantError as error:  # too large for this machine, say
                skipped[f"memory of {cell}"] = str(error)
        on_progress("done", steps(cells))
    return Result(rows, found, skipped, load, precision, ways.in_use().name, limited_to)


def steps(cells: Sequence[Cell]) -> int:
    """How many steps of progress there are."""
    return len(cells) + len(_looked_at(cells))


def _looked_at(cells: Sequence[Cell]) -> list[Cell]:
    return memory.largest(cells) if memory.available() else []


def _finite(value: Any) -> Any:
    """The same with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
