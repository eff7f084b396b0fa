"""`reluctant demo`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from reluctant.cli.common import FAILED, JsonFile, clean_exit
from reluctant.files import check_writable, write_atomic, write_json

PICTURE_WIDTH = 96  # columns


def demo(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="As `reluctant train` writes it; otherwise $RELUCTANT_MODEL, or kept/en-de here "
            "or in the repository.",
        ),
    ] = None,
    sentences: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    text: Annotated[
        bool,
        typer.Option("--text", help="Sentences of our own, not those in the model's folder."),
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.svg", help="Write the output there, too, with sentences of our own."
        ),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Translate English to German with a trained model, three ways in turns: untouched torch, the
    engine pinned to its dense way, and the engine.

    The sentences are those of 5 to 15 words in the folder's test-general.tsv, which the model has
    not learned from, at even distances. Exit code 1 if a translation is not the same three ways.
    """
    with clean_exit(json):
        if picture is not None:
            check_writable(picture)
        from rich.console import Console  # noqa: PLC0415

        from reluctant.demo import run_demo, table  # noqa: PLC0415
        from reluctant.demo.sentences import choose  # noqa: PLC0415
        from reluctant.translation.folder import find_model  # noqa: PLC0415

        folder = find_model(model)
        texts = choose(folder, sentences, own=text or picture is not None)
        console = Console() if picture is None else Console(record=True, width=PICTURE_WIDTH)
        table.show_head(console, folder.resolve().name, texts)
        result = run_demo(
            folder, texts, on_sentence=lambda each: table.show_sentence(console, each)
        )
        command = "reluctant translate"
        if model is not None and picture is None:  # a picture is for others, who have it elsewhere
            command += f" --model {shlex.quote(model)}"
        table.show_result(console, result, command)
        if json is not None:
            write_json(json, result.to_json())
        if picture is not None:
            write_atomic(picture, table.svg(console))
        if not result.identical:
            raise typer.Exit(FAILED)
