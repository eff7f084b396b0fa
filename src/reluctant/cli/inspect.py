"""`reluctant inspect`."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from reluctant.cli.common import (
    FAILED,
    INTERRUPTED,
    SourceLang,
    TargetLang,
    TrustRemoteCode,
    clean_exit,
    complain,
    progress,
)
from reluctant.errors import ReluctantError
from reluctant.files import json_line, write_json


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            help="A folder as `reluctant train` writes it, a Hugging Face folder, a hub name, or "
            "package.module:factory, which returns (model, tokenizer)."
        ),
    ],
    text: Annotated[Path, typer.Option(help="A file in UTF-8, or a pipe, a sequence a line.")],
    target: Annotated[
        Path | None,
        typer.Option(
            help="What the decoder of an encoder-decoder reads, a line for each of --text; "
            "otherwise the model's own greedy translations."
        ),
    ] = None,
    sentence: Annotated[
        list[str] | None,
        typer.Option(
            help="To be looked at by itself, as often as you like; otherwise the first three lines."
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER:NEURON",
            help="To be taken out of each sentence, beside the three of each layer that add most "
            "to it; as often as you like. The layer by its name, or such as 'encoder 0'.",
        ),
    ] = None,
    neurons: Annotated[
        int, typer.Option(min=1, help="So many of each layer are told of: those that add most.")
    ] = 64,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="TOKENS", help="Stop after so many of the text.")
    ] = None,
    source_lang: SourceLang = None,
    target_lang: TargetLang = None,
    trust_remote_code: TrustRemoteCode = False,
    json: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write all there as JSON; -: to stdout.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page there, to look around in.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples that are drawn.")] = 1,
) -> None:
    """Look into a model's feed-forward layers while it reads a text: which neurons fire, where,
    what they add, and what the model would say without them.

    The text goes through once, piece by piece: it may be of any length. Ctrl-C tells what was seen
    until then. Bytes that are no UTF-8 are replaced, and counted.

    Exit code 1 if the model did not compute the same while it was looked into.
    """
    file = None if json in (None, "-") else Path(str(json))
    with clean_exit(file):
        if html is not None:
            from reluctant.lab.page import check_page  # noqa: PLC0415  an extra

            check_page(html)
        from rich.console import Console  # noqa: PLC0415

        from reluctant.interrupt import interruptible  # noqa: PLC0415
        from reluctant.lab.inspect import Options, open_subject, run_inspection  # noqa: PLC0415
        from reluctant.lab.inspect.table import show  # noqa: PLC0415
        from reluctant.lab.inspect.text import File  # noqa: PLC0415

        read = File(text, target)
        options = Options(
            sentences=sentence or None,
            neurons=neurons,
            limit=limit,
            seed=seed,
            command=shlex.join(["reluctant", *sys.argv[1:]]),
            without=list(map(_named, without or ())),
        )
        with progress() as bar:
            task = bar.add_task("loading", total=read.size)
            subject = open_subject(
                model, trust_remote_code=trust_remote_code, languages=(source_lang, target_lang)
            )
            two = len(subject.stacks) > 1
            if target is not None and not two:
                raise ReluctantError(
                    f"expected no --target for {model}, which is no encoder-decoder: leave it out"
                )
            with interruptible() as stopped, _exit_code(stopped):
                record = run_inspection(
                    subject,
                    read,
                    options,
                    translated=two and target is None,
                    stopped=stopped,
                    on_step=lambda step: bar.update(task, description=step, completed=read.bytes),
                )
                interrupted = stopped()
        found = record.to_json()
        if file is not None:
            write_json(file, found)
        if html is not None:
            from reluctant.lab.page import write_inspection  # noqa: PLC0415  an extra

            write_inspection(found, html)
        if json == "-":
            typer.echo(json_line(found))
        else:
            show(record, Console())
        if not record.sound:
            for check in record.checks:
                if not check.holds:
                    complain(check.says)
            raise typer.Exit(FAILED)
        if interrupted:
            raise typer.Exit(INTERRUPTED)


@contextmanager
def _exit_code(stopped: Callable[[], bool]) -> Iterator[None]:
    """That of Ctrl-C, too, where it came before there was anything to tell."""
    try:
        yield
    except ReluctantError as error:
        if not stopped():
            raise
        complain(str(error))
        raise typer.Exit(INTERRUPTED) from error


def _named(neuron: str) -> tuple[str, int]:
    """Of LAYER:NEURON."""
    layer, _, index = neuron.rpartition(":")
    if not layer or not index.isdecimal():
        raise ReluctantError(
            "expected --without LAYER:NEURON, such as encoder.layers.0.feed_forward:17, got "
            f"{neuron!r}"
        )
    return layer, int(index)
