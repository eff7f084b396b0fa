"""The command line: one file a command, from `reluctant train` to `reluctant compile`.

Exit codes: 0, all is well; 1, it ran and a check failed; 2, it could not run (usage, input, a
missing extra); 130, interrupted. Heavy imports stand inside the commands: help is quick.
"""

import os
import signal
from types import FrameType
from typing import Annotated, NoReturn

import typer

from reluctant import __version__
from reluctant.cli.bench import bench
from reluctant.cli.common import INTERRUPTED
from reluctant.cli.compile import compile_kernels
from reluctant.cli.demo import demo
from reluctant.cli.inspect import inspect
from reluctant.cli.optimize import optimize
from reluctant.cli.study import study
from reluctant.cli.train import train
from reluctant.cli.translate import translate
from reluctant.cli.tune import tune

app = typer.Typer(
    help="The Transformer's feed-forward layer, exact and fast on CPUs.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (train, translate, demo, inspect, study, bench, optimize, tune):
    app.command()(command)
app.command("compile")(compile_kernels)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"reluctant {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the `reluctant` command."""
    signal.signal(signal.SIGINT, _stop)
    app()


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """End at once. A KeyboardInterrupt would get lost in the callbacks of Numba's compiler, and
    there is nothing to tidy up but the cursor that a progress bar hides.
    """
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True)
    console.show_cursor()
    console.print("\nreluctant: interrupted")
    console.file.flush()
    os._exit(INTERRUPTED)
