"""`reluctant tune`."""

from typing import Annotated

import typer

from reluctant.cli.common import clean_exit, progress
from reluctant.errors import ReluctantError


def tune(
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute, and coarse; else some minutes.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Go back to the table that is shipped.")
    ] = False,
) -> None:
    """Measure which way of computing is the fastest on this machine, and go by it from now on.

    The table is kept in the user's cache folder, one for each number of threads. Do it when the
    machine is idle, and again after an upgrade.
    """
    with clean_exit(None):
        from reluctant import tables  # noqa: PLC0415

        if forget:
            if quick:
                raise ReluctantError("expected --quick or --forget, got both: leave one out")
            for path in tables.forget():
                typer.echo(f"removed: {path}")
            return
        tables.check_folder()
        from rich.console import Console  # noqa: PLC0415

        from reluctant.bench import crossings  # noqa: PLC0415
        from reluctant.tune import run_tune, show  # noqa: PLC0415

        plan = crossings.QUICK if quick else crossings.FULL
        with progress() as bar:
            task = bar.add_task("starting", total=len(plan))
            tuned = run_tune(
                plan,
                on_progress=lambda what, done: bar.update(task, description=what, completed=done),
            )
        show(tuned, Console())
