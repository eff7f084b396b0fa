"""What all commands share: exit codes, messages, progress."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from reluctant.errors import ReluctantError
from reluctant.files import check_writable, write_json
from reluctant.missing import numba_for
from reluctant.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130

JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the figures there too, as JSON."),
]

TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
]
SourceLang = Annotated[
    str | None, typer.Option(help="For a Hugging Face model of many languages, such as en.")
]
TargetLang = Annotated[str | None, typer.Option(help="The same.")]


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
        complain(str(error))
        raise typer.Exit(UNUSABLE) from error


def complain(says: str) -> None:
    """On stderr, from us. Names of files and what a library says may hold any character."""
    typer.echo(printable(f"reluctant: {says}", keep="\n"), err=True)


def progress() -> "Progress":
    """A progress bar on stderr, so that stdout holds the figures and nothing else."""
    from rich.progress import (  # noqa: PLC0415  Help needs none of this
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from reluctant.console import console  # noqa: PLC0415

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console(),
        transient=True,
    )


def deliver(
    result: Any, json: Path | None, plot: Path | None, draw: Callable[[Any, Path], object]
) -> None:
    """Write what was measured, draw it, and end with exit code 1 if something was wrong."""
    if json is not None:
        write_json(json, result.to_json())
    if plot is not None:
        draw(result.rows, plot)
    if not result.agree:
        raise typer.Exit(FAILED)


def listed(text: str, kind: Callable[[str], T]) -> list[T]:
    """The values of an option that takes several, separated by commas."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return [kind(part) for part in parts]
    except ReluctantError:
        raise
    except ValueError as error:
        raise ReluctantError(f"expected numbers separated by commas, got {text!r}") from error
