"""The command: see `tools.decoding`."""

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reluctant.errors import ReluctantError
from reluctant.files import check_writable, write_json
from tools.decoding.compare import Comparison, first_pairs
from tools.decoding.table import markdown as as_markdown
from tools.decoding.table import show

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="A model's folder.")],
    test: Annotated[
        Path | None,
        typer.Option(help="Pairs, English, tab, German; else FOLDER/test-general.tsv."),
    ] = None,
    sentences: Annotated[int, typer.Option(min=1, help="So many, from the beginning.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="The median is reported.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="0: torch's choice.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print them as Markdown.")] = False,
) -> None:
    """Decode the same sentences by all runtimes, and print tokens/s and BLEU of each."""
    if json is not None:
        check_writable(json)
    if threads:
        torch.set_num_threads(threads)
    comparison = Comparison(folder, first_pairs(test or folder / "test-general.tsv", sentences))
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("decoding, in turns", total=comparison.turns(rounds))
        result = comparison.run(rounds, lambda: progress.advance(bar))
    if json is not None:
        write_json(json, result.as_json())
    if markdown:
        typer.echo(as_markdown(result), nl=False)
    else:
        show(result, Console())


if __name__ == "__main__":
    try:
        app()
    except ReluctantError as error:
        typer.echo(error, err=True)
        sys.exit(1)
