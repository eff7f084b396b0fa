"""`reluctant train`."""

import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from reluctant.cli.common import INTERRUPTED, clean_exit
from reluctant.translation.settings import Settings, read_settings


def train(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="Parallel text: .tsv, .jsonl, a folder of them, or two files of lines; also .gz."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder that the model is written to.")],
    validation: Annotated[
        list[Path] | None, typer.Option(help="Text to validate on; otherwise a share of the data.")
    ] = None,
    keep_out: Annotated[
        list[Path] | None, typer.Option(help="Text to test on later: nothing near it is learned.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings as TOML; options on the command line go first.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say sizes, memory and expected time, and stop.")
    ] = False,
    **given: Any,
) -> None:
    """Learn to translate from parallel text, and write the model to a folder.

    The same command goes on with a run that was stopped or killed: Ctrl-C ends it with a
    checkpoint. Under torchrun it runs on many processes.
    """
    with clean_exit(None):
        chosen = {name: value for name, value in given.items() if value is not None}
        settings = read_settings(config, chosen)
        from reluctant.cli.learning import learn  # noqa: PLC0415  loads torch

        texts = data, validation or [], keep_out or []
        if not learn(texts, out, settings, dry_run=dry_run):
            raise typer.Exit(INTERRUPTED)


def _option(field: Field[Any]) -> inspect.Parameter:
    """A setting on the command line. Its default is None: not given."""
    kind = next(each for each in (bool, int, float, str) if each.__name__ in str(field.type))
    default = "" if field.default is None else f" (default: {_said(field.default)})"
    option = typer.Option(help=field.metadata["help"] + default, show_default=False)
    hint: Any = Annotated[kind | None, option]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(field.name, keyword, default=None, annotation=hint)


def _said(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each field of `Settings`, which typer reads from here."""
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [_option(field) for field in fields(Settings)]
    command.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    hints = {option.name: option.annotation for option in options}
    command.__annotations__ = {**command.__annotations__, **hints}
    return command


_with_settings(train)
