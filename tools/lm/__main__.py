"""The command: see `tools.lm`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reluctant.errors import ReluctantError
from reluctant.interrupt import interruptible
from tools.lm import record, text
from tools.lm.train import Settings, train

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
DEFAULTS = Settings()
BUILD = Path("build/lm")


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    engine: Annotated[bool, typer.Option(help="Serve the feed-forward layers.")] = False,
    penalty: Annotated[float, typer.Option(min=0, help="Weight of the mean of |h|.")] = 0.0,
    ramp: Annotated[int, typer.Option(min=0, help="Steps over which it grows.")] = 0,
    steps: Annotated[int, typer.Option(min=1)] = DEFAULTS.steps,
    stop: Annotated[int, typer.Option(help="End after so many of the steps; 0: all.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Sequences a step.")] = DEFAULTS.batch,
    length: Annotated[int, typer.Option(min=1, help="Tokens of each.")] = DEFAULTS.length,
    seed: int = DEFAULTS.seed,
    lr: Annotated[float, typer.Option(min=0, help="The highest learning rate.")] = DEFAULTS.lr,
    threads: Annotated[int, typer.Option(min=0, help="0: torch's choice.")] = 0,
    every: Annotated[int, typer.Option(min=1, help="Steps a checkpoint.")] = DEFAULTS.every,
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = BUILD,
    own: Annotated[
        Path | None, typer.Option("--text", help="A text of your own, with empty lines.")
    ] = None,
) -> None:
    """Train. The same command goes on with a run that was ended."""
    if context.invoked_subcommand is not None:
        return
    settings = Settings(
        engine=engine, penalty=penalty, ramp=ramp, steps=steps, stop=stop or steps, batch=batch,
        length=length, seed=seed, lr=lr, threads=threads or torch.get_num_threads(), every=every,
    )  # fmt: skip
    parts = text.paragraphs(own.read_text(encoding="utf-8")) if own else text.austen(BUILD)
    learned = text.tokenised(parts)
    typer.echo(f"{len(learned.train)} tokens to learn, {len(learned.valid)} to validate", err=True)
    command = shlex.join(["python", "-m", "tools.lm", *sys.argv[1:]])
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with (
        Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress,
        interruptible() as pressed,
    ):
        bar = progress.add_task(settings.name, total=settings.stop)

        def show(line: dict[str, Any]) -> bool:
            known = [each for each in line["density"] if each is not None]
            active = f", {sum(known) / len(known):.1%} active" if known else ""
            said = f"{settings.name}: loss {line['loss']:.3f}{active}"
            progress.update(bar, completed=line["step"], description=said)
            return not pressed()

        done = train(settings, learned, out, command, show)
    typer.echo(out / f"{settings.name}.jsonl")
    if not done:
        typer.echo("ended; the same command goes on", err=True)
        raise typer.Exit(130)


@app.command()
def plot(folder: Path, picture: Path) -> None:
    """Draw a folder's runs."""
    from tools.lm.plot import draw  # noqa: PLC0415  matplotlib

    draw(record.read_all(folder), picture)


@app.command()
def table(folder: Path) -> None:
    """Print a folder's runs as a table in Markdown."""
    from tools.lm.table import page  # noqa: PLC0415

    typer.echo(page(record.read_all(folder)))


if __name__ == "__main__":
    try:
        app()
    except ReluctantError as error:
        typer.echo(error, err=True)
        sys.exit(1)
