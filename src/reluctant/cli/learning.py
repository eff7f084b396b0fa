"""What `reluctant train` shows while it learns: where the text went, a live line, a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from reluctant.console import console
from reluctant.interrupt import interruptible
from reluctant.translation import journal
from reluctant.translation.data import Data, gather
from reluctant.translation.distributed import ranks_of
from reluctant.translation.picture import draw
from reluctant.translation.plan import Plan, plan
from reluctant.translation.settings import Settings
from reluctant.translation.train import Run, Watch

PICTURE = "learning.svg"


def learn(
    texts: tuple[Sequence[Path], Sequence[Path], Sequence[Path]],
    out: Path,
    settings: Settings,
    *,
    dry_run: bool,
) -> bool:
    """Do a run, or say what it would be. texts: to learn from, to validate on, to keep out.

    Gives False if it was interrupted.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with ranks_of(settings) as ranks:
        if ranks.first:
            _expect_extras(settings)
        with console().status("reading text"):
            data = gather(*texts, settings)
        if ranks.first:
            console().print(_counts(data))
        if dry_run:
            if ranks.first:
                Console().print(_planned(plan(data, settings)))
            return True
        with console().status("subwords, model"):
            run = Run(out, data, settings, ranks)
        if run.done:
            console().print(f"nothing left to do: the model is in {out}", markup=False)
            return True
        return _watched(run)


def _expect_extras(settings: Settings) -> None:
    """Before hours of work, not after them."""
    from reluctant.transformer.io import expect_safetensors  # noqa: PLC0415
    from reluctant.translation.score import score  # noqa: PLC0415

    expect_safetensors()
    if settings.score_sentences:
        score(["A cat."], ["A cat."])


def _watched(run: Run) -> bool:
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console(),
        disable=not run.ranks.first,
    )
    first = run.ranks.first
    with interruptible() as pressed, shown:
        settings, progress = run.settings, run.progress
        task = shown.add_task("compiling", total=settings.steps, completed=progress.step)

        def on_step(line: journal.Line) -> None:
            shown.update(task, completed=line["step"], description=_said(line))

        def on_validation(line: journal.Line) -> None:
            if first and "validation" in line:
                shown.console.print(_judged(line), markup=False, highlight=False)
                _drawn(run)

        done = run.train(Watch(on_step, on_validation, pressed))
    if first:
        _drawn(run)
        how = "the model is in" if done else "interrupted; the same command goes on with"
        console().print(f"{how} {run.folder}", markup=False)
    return done


def _said(line: journal.Line) -> str:
    text = f"loss {line['loss']:.3f}  {line['tokens'] / line['seconds']:,.0f} tokens/s"
    shares = [share for share in line.get("density", {}).values() if share is not None]
    return text + (f"  density {sum(shares) / len(shares):.1%}" if shares else "")


def _judged(line: journal.Line) -> str:
    text = f"step {line['step']}: validation {line['validation']:.4f} nats a token"
    if "bleu" in line:
        text += f", BLEU {line['bleu']:.1f}, chrF {line['chrf']:.1f}"
    return f"{text}, after {line['elapsed'] / 60:.1f} min"


def _drawn(run: Run) -> None:
    """The picture is a help, and no reason to stop learning."""
    try:
        draw(journal.read(run.folder / journal.NAME), run.folder / PICTURE)
    except (ImportError, OSError) as error:
        console().print(f"no picture: {error}", markup=False)


def _counts(data: Data) -> Table:
    table = Table(title="Pairs of sentences", box=box.SIMPLE, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, count in data.counts.items():
        table.add_row(name, f"{count:,}")
    return table


def _planned(found: Plan) -> Table:
    table = Table(title="What it would be", box=box.SIMPLE, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows: dict[str, Any] = {
        "parameters": f"{found.parameters:,}",
        "of them in feed-forward layers": f"{found.feed_forward:,}",
        "subwords": f"{found.vocabulary:,}",
        "target tokens an epoch": f"{found.tokens:,}",
        "steps an epoch": f"{found.steps_per_epoch:,.0f}",
        "epochs": f"{found.epochs:.1f}",
        "memory of weights, gradients, moments": f"{found.state_bytes / 2**20:,.0f} MB",
        "highest memory of the steps tried": f"{found.peak_bytes / 2**20:,.0f} MB",
        "a checkpoint": f"{found.checkpoint_bytes / 2**20:,.0f} MB",
        "a step at first": f"{found.seconds:.2f} s",
        "all steps, at most": f"{found.total_seconds / 60:,.0f} min",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
