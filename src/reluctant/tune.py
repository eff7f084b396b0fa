"""Measure this machine, and keep a table of limits of its own (`reluctant tune`)."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import mean

import torch
from rich.console import Console

from reluctant import tables, ways
from reluctant.bench import crossings, training_limits
from reluctant.bench.fit import Cell, regrets, table_of
from reluctant.kernels import integer
from reluctant.machine import header

BUSY = 0.5  # load average from which on other work may have disturbed the measurement


@dataclass(frozen=True)
class Tuned:
    """What was measured, and where it is kept.

    before, after: how many times longer than the fastest way a call takes that goes by the table
    used so far, and by the new one: at most, and on average over the cells.
    """

    path: Path
    cells: int
    load: float
    before: tuple[float, float]
    after: tuple[float, float]


def run_tune(
    plan: crossings.Plan,
    *,
    on_progress: Callable[[str, float], object] = lambda what, done: None,
) -> Tuned:
    """Measure, and write the table into the user's cache folder; this process uses it, too.

    Args:
        plan: `crossings.FULL` or `crossings.QUICK`.
        on_progress: is told what is being measured, and how many cells are done.

    Raises:
        ReluctantError: the folder cannot be written to (said before anything is measured).
    """
    tables.check_folder()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    used = ways.in_use().table
    cells: list[Cell] = []
    for cell in crossings.measure(plan, on_cell=lambda what: on_progress(what, len(cells))):
        cells.append(cell)
    training = None
    if plan.training:
        steps = count(len(cells))
        training = training_limits.measure(
            plan.training, rounds=plan.rounds, on_cell=lambda what: on_progress(what, next(steps))
        )
    on_progress("done", len(plan))
    table = table_of(cells, tables.about(integer.CAPABILITY, torch.get_num_threads(), training))
    path = tables.write_own(table)
    ways.forget()
    before, after = (regrets(cells, each) for each in (used, table))
    return Tuned(path, len(cells), load, (max(before), mean(before)), (max(after), mean(after)))


def show(tuned: Tuned, console: Console) -> None:
    """What has changed, for people."""
    console.print(header(), markup=False)
    if tuned.load > BUSY:
        console.print(
            f"[yellow]Load average {tuned.load:.1f} before the run: if that work went on beside "
            "it, measure again when it is over.[/]"
        )
    for name, (most, average) in {"so far": tuned.before, "from now on": tuned.after}.items():
        console.print(
            f"{name}: a call takes at most {most:.2f} times as long as by the fastest way, "
            f"{average:.2f} times on average over {tuned.cells} cells"
        )
    console.print(f"written: {tuned.path}", markup=False, soft_wrap=True)
    console.print("reluctant tune --forget goes back to the table that is shipped")
