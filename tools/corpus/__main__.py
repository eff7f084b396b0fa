"""The command: see `tools.corpus`."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from reluctant.errors import ReluctantError
from reluctant.files import write_atomic
from reluctant.translation.pairs import Pair
from tools.corpus import parts, sources
from tools.corpus.faults import good
from tools.corpus.packages import fetch

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    packages: Annotated[
        Path | None,
        typer.Option(help="Where the packages go, or are; else FOLDER/packages."),
    ] = None,
) -> None:
    """Fetch the packages, and write sentences to learn from, to validate and to test on."""
    room = packages or folder / "packages"
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("fetching", total=len(sources.NAMES) + 7)
        fetch(sources.NAMES, room)
        found = []
        for each in sources.packages(room):
            progress.update(bar, advance=1, description=f"reading {each[1].name}")
            found.append(each)
        read = sources.pairs(found)
        kept: dict[str, list[Pair]] = {}
        counts: dict[str, Counter[str]] = {}
        for name, pairs in read.items():
            progress.update(bar, advance=1, description=f"cleaning {name}")
            kept[name], counts[name] = good(pairs)
        progress.update(bar, advance=1, description="holding out")
        divided = parts.divide(kept)
        progress.update(bar, advance=1, description="writing")
        _write(folder, divided)
        sizes = {name: len(pairs) for name, pairs in kept.items()}
        write_atomic(folder / "SOURCES.md", sources.page(found, sizes))
        (folder / "notices").mkdir(exist_ok=True)
        for _, package in found:
            write_atomic(folder / "notices" / f"{package.name}.txt", package.notice)
    Console(width=120).print(_table(counts, divided))


def _write(folder: Path, divided: parts.Parts) -> None:
    (folder / "train").mkdir(parents=True, exist_ok=True)
    for name, pairs in divided.train.items():
        write_atomic(folder / "train" / f"{name}.tsv", _tsv(pairs))
    write_atomic(folder / "valid.tsv", _tsv(divided.valid))
    for name, pairs in divided.test.items():
        write_atomic(folder / f"test-{name}.tsv", _tsv(pairs))


def _tsv(pairs: Sequence[Pair]) -> str:
    return "".join(f"{pair.source}\t{pair.target}\n" for pair in pairs)


def _table(counts: dict[str, Counter[str]], divided: parts.Parts) -> Table:
    """What became of the pairs read: a column for each source."""
    table = Table("pairs", *counts, title=f"{len(divided.valid)} to validate")
    reasons = sorted({reason for each in counts.values() for reason in each} - {"read", "kept"})
    for reason in ["read", *reasons, "kept"]:
        table.add_row(reason, *(str(each[reason]) for each in counts.values()))
    table.add_row("held out, or near it", *(str(divided.near[name]) for name in counts))
    table.add_row("test", *(str(len(divided.test.get(name, []))) for name in counts))
    table.add_row("train", *(str(len(divided.train[name])) for name in counts))
    return table


if __name__ == "__main__":
    try:
        app()
    except ReluctantError as error:
        typer.echo(error, err=True)
        sys.exit(1)
