"""The command line: one file a command, and what they share.

Exit codes: 0, all is well; 1, it ran and a check failed; 2, it could not run (usage, input, a
missing extra); 130, interrupted. Heavy imports stand inside the commands: help is quick.
"""

import signal
from typing import Annotated

import typer

from reluctant.cli.bench import bench
from reluctant.cli.demo import demo
from reluctant.cli.optimize import optimize
from reluctant.cli.shared import stop

app = typer.Typer(
    help="The Transformer's feed-forward layer, exact and fast on CPUs.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(bench)
app.command()(optimize)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"reluctant {version('reluctant')}")
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
    signal.signal(signal.SIGINT, stop)
    app()
