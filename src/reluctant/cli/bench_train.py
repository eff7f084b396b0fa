"""`reluctant bench --phases train`: training steps."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reluctant.cli.common import deliver, progress
from reluctant.errors import ReluctantError

CHOICES = ("shapes", "dtypes", "densities", "tokens")


def train(
    picked: dict[str, Any],
    *,
    quick: bool,
    rounds: int | None,
    peers: Sequence[str],
    plot: Path | None,
    rows_from: Path | None,
    limited_to: str | None,
    json: Path | None,
    refused: Sequence[str],
) -> None:
    """Time training steps beside torch's; exit code 1 if an output or a gradient is wrong.

    picked: values by the names of `CHOICES`, and of others. refused: options that were given and do
    not go with these.
    """
    from rich.console import Console  # noqa: PLC0415

    from reluctant.bench import limited  # noqa: PLC0415
    from reluctant.bench.plot import check  # noqa: PLC0415
    from reluctant.bench.train import grid, run  # noqa: PLC0415
    from reluctant.bench.train import plot as picture  # noqa: PLC0415
    from reluctant.bench.train.peers import BUILDERS  # noqa: PLC0415
    from reluctant.bench.train.table import show  # noqa: PLC0415

    choices = {name: picked[name] for name in CHOICES}
    _check(quick, [f"--{name}" for name in CHOICES if choices[name]], refused)
    limited.ensure(limited_to, sys.argv[1:])
    if plot is not None:
        check(plot)
    if rows_from is not None:
        if plot is None or json is not None:
            raise ReluctantError("--from draws a picture: it goes with --plot, without --json")
        picture.draw(picture.load(rows_from), plot)
        return
    if any(choices.values()):
        cells = grid.choose(**choices)
    else:
        cells = grid.quick() if quick else grid.usual()
    if plot is not None and len({cell.density for cell in cells}) == 1:
        raise ReluctantError("--plot draws times by density: expected --densities with several")
    names = list(peers) or list(BUILDERS)
    if quick and not peers:
        names.remove("compile")  # seconds of compiling for each kind
    with progress() as bar:
        task = bar.add_task("starting", total=run.steps(cells))
        result = run.run_train(
            cells,
            rounds=rounds or (4 if quick else 5),
            names=[] if names == ["none"] else names,
            limited_to=limited_to,
            on_progress=lambda what, done: bar.update(task, description=what, completed=done),
        )
    show(result, Console())
    deliver(result, json, plot, picture.draw)


def _check(quick: bool, picks: Sequence[str], refused: Sequence[str]) -> None:
    """Raise ReluctantError for options that do not go together."""
    if refused:
        raise ReluctantError(f"{' and '.join(refused)} cannot go with --phases train: leave it out")
    if quick and picks:
        both = " and ".join(["--quick", *picks])
        raise ReluctantError(f"expected one selection, got {both}: leave one out")
