"""What the commands share: how they end, what they show meanwhile, the option `--json`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from reluctant.errors import ReluctantError
from reluctant.files import check_writable
from reluctant.missing import numba_for

if TYPE_CHECKING:
    from rich.progress import Progress

FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130

JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the figures there too, as JSON."),
]


@contextmanager
def clean_exit(json: Path | None) -> Iterator[None]:
    """One line and an exit code instead of a traceback, for what is not a defect of ours.

    Args:
        json: where the result will be written; checked before the long run, not after it.
    """
    try:
        if json is not None:
            check_writable(json)
        with numba_for("this command"):
            yield
    except ReluctantError as error:
        typer.echo(f"reluctant: {error}", err=True)
        raise typer.Exit(UNUSABLE) from error


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """End at once. A KeyboardInterrupt would get lost in the callbacks of Numba's compiler, and
    there is nothing to tidy up but the cursor that a progress bar hides.
    """
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True)
    console.show_cursor()
    console.print("\nreluctant: interrupted")
    console.file.flush()
    os._exit(INTERRUPTED)


def progress_bar() -> "Progress":
    """On stderr, so that stdout holds the figures and nothing else."""
    from rich import progress  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
