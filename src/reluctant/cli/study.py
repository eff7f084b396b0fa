"""`reluctant study`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reluctant.cli.common import INTERRUPTED, JsonFile, clean_exit, listed, progress
from reluctant.files import check_writable, write_json

if TYPE_CHECKING:
    from reluctant.lab.study.run import Outcome

OUT, WEIGHTS = Path("build/study"), Path("build/study-weights")


def study(
    pairs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Parallel text, English first, as `reluctant train` reads it. Without any, "
            "nothing is done: what is in --out is shown."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Of the results, a file each.  [default: build/study]"),
    ] = None,
    only: Annotated[
        str,
        typer.Option(
            help="Some of nonlinearity, residual, combination, applied, width, timing, separated "
            "by commas; timing wants a quiet machine."
        ),
    ] = "",
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="End before so many; the same command goes on."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A smoke run of under two minutes, without conclusions; without PAIRS on "
            "sentences of our own.",
        ),
    ] = False,
    weights: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Where trained models are kept for what is measured."),
    ] = WEIGHTS,
    json: JsonFile = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page there, to look at.")
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Fill the figures into this file, between its marks."),
    ] = None,
) -> None:
    """Measure the four claims about the feed-forward layer, and how it is applied, on small models.

    Each piece of it - a model that learns, or a measurement, of one seed - is written to --out
    when it is done, and not done again: Ctrl-C loses the one that goes on. All of it takes some
    three and a half hours of two cores.
    """
    with clean_exit(json):
        if html is not None:
            from reluctant.lab.page import check_page  # noqa: PLC0415  an extra

            check_page(html)
        if markdown is not None:
            check_writable(markdown)
        folder = out or (OUT.with_name(f"{OUT.name}-quick") if quick else OUT)
        finished = True
        if pairs or quick:
            outcome = _run(pairs or [], folder, weights, listed(only, str), minutes, quick=quick)
            typer.echo(_said(outcome, folder), err=True)
            finished = not outcome.interrupted
        _deliver(folder, json, html, markdown)
        if not finished:
            raise typer.Exit(INTERRUPTED)


def _run(
    pairs: Sequence[Path],
    out: Path,
    weights: Path,
    only: Sequence[str],
    minutes: float | None,
    *,
    quick: bool,
) -> "Outcome":
    from reluctant.console import console  # noqa: PLC0415
    from reluctant.interrupt import interruptible  # noqa: PLC0415
    from reluctant.lab.study.pieces import pieces  # noqa: PLC0415  loads torch
    from reluctant.lab.study.plan import FULL, QUICK  # noqa: PLC0415
    from reluctant.lab.study.run import run  # noqa: PLC0415
    from reluctant.lab.study.text import read  # noqa: PLC0415

    plan = QUICK if quick else FULL
    pieces(plan, only)  # a name that is none is said before the text is read
    with console().status("reading text"):
        text = read(pairs, plan)
    with interruptible() as pressed, progress() as bar:
        task = bar.add_task("", total=None)
        return run(
            plan,
            text,
            out,
            weights,
            only=only,
            minutes=minutes,
            on_progress=lambda what, done, total: bar.update(
                task, description=what, completed=done, total=total
            ),
            stop=pressed,
        )


def _said(outcome: "Outcome", out: Path) -> str:
    text = f"{outcome.done} of {outcome.total} pieces are in {out}"
    if outcome.interrupted:
        return f"interrupted: {text}; the same command goes on"
    return text if outcome.done == outcome.total else f"{text}; the same command goes on"


def _deliver(folder: Path, json: Path | None, html: Path | None, markdown: Path | None) -> None:
    from rich.console import Console  # noqa: PLC0415

    from reluctant.lab.study.report import markdown as written  # noqa: PLC0415
    from reluctant.lab.study.report.document import document  # noqa: PLC0415
    from reluctant.lab.study.report.show import show  # noqa: PLC0415

    found: dict[str, Any] = document(folder)
    show(found, Console())
    if json is not None:
        write_json(json, found)
    if markdown is not None:
        written.write(markdown, found)
    if html is not None:
        from reluctant.lab.page import write_study  # noqa: PLC0415  an extra

        write_study(found, html)
