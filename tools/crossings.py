"""Measure where the ways cross, and write the table that is shipped for this processor.

python -m tools.crossings            measure, and show the grid
python -m tools.crossings --write    and write src/reluctant/costs/CAPABILITY.json
"""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from reluctant import tables
from reluctant.bench.crossings import FULL, measure
from reluctant.bench.fit import Cell, regrets, table_of
from reluctant.bench.training_limits import measure as measure_training
from reluctant.files import write_json
from reluctant.kernels import integer

_BEARABLE = 1.15  # a call may take so much longer than the best way would


def show(cells: list[Cell], console: Console) -> None:
    """The grid: times in microseconds, the fastest way, and the automatic choice against it."""
    table = Table(title="Microseconds a call")
    names = (*tables.WAYS, "dense", "auto")
    for column in ("dtype", "W1", "tokens", "density", "candidates", *names, "auto / best"):
        table.add_column(column, justify="right")
    for c in cells:
        times = [
            "-" if w not in c.seconds else f"{'*' if t == c.best else ''}{1e6 * t:.0f}"
            for w in names
            for t in [c.seconds.get(w, 0.0)]
        ]
        shares = f"{c.density:.0%}", f"{c.candidates:.1%}"
        table.add_row(c.dtype, str(c.weights), str(c.tokens), *shares, *times, f"{c.regret:.2f}")
    console.print(table)
    worst = max(cells, key=lambda c: c.regret)
    console.print(
        f"auto at most {worst.regret:.2f}x the best way ({worst.weights} weights, "
        f"{worst.tokens} tokens, {worst.density:.0%}); above {_BEARABLE}x in "
        f"{sum(c.regret > _BEARABLE for c in cells)} of {len(cells)} cells"
    )


def main(
    write: Annotated[bool, typer.Option(help="Write this processor's shipped table.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each way in each cell.")] = 3,
) -> None:
    """Measure where the ways cross."""
    plan = replace(FULL, rounds=rounds)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=len(plan))
        cells = []
        for cell in measure(plan, with_auto=True, on_cell=lambda _: progress.advance(task)):
            cells.append(cell)
    show(cells, Console(width=130))
    training = measure_training(plan.training, rounds=rounds) if plan.training else None
    table = table_of(cells, tables.about(integer.CAPABILITY, torch.get_num_threads(), training))
    Console().print(f"by the new table at most {max(regrets(cells, table)):.2f}x the best way")
    if write:
        path = Path(str(files("reluctant").joinpath("costs", f"{integer.CAPABILITY}.json")))
        write_json(path, table)
        typer.echo(f"written: {path}")


if __name__ == "__main__":
    typer.run(main)
