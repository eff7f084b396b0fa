"""`python -m tools.kept RUN CORPUS FOLDER`."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from reluctant.files import write_atomic
from reluctant.transformer import load, save
from tools.kept.card import card
from tools.kept.measure import measure

LICENSE = Path("/usr/share/common-licenses/GPL-3")  # as Debian's base-files has it
SETS = ("test-general.tsv", "test-help.tsv")


def main(
    run: Annotated[Path, typer.Argument(help="What `reluctant train` wrote.")],
    corpus: Annotated[Path, typer.Argument(help="What `python -m tools.corpus` wrote.")],
    folder: Annotated[Path, typer.Argument(help="Where the model is to be kept.")],
) -> None:
    """Store a model in 16 bits with its text for tests, its sources and a card."""
    folder.mkdir(parents=True, exist_ok=True)
    save(load(run).half(), folder)
    for name in ("tokenizer.json", "learning.svg"):
        shutil.copyfile(run / name, folder / name)
    for name in (*SETS, "SOURCES.md"):
        shutil.copyfile(corpus / name, folder / name)
    shutil.copytree(corpus / "notices", folder / "notices", dirs_exist_ok=True)
    shutil.copyfile(LICENSE, folder / "LICENSE")
    found = measure(folder, {name.split("-")[1].split(".")[0]: folder / name for name in SETS})
    write_atomic(folder / "exact.tsv", "".join(f"{s}\t{t}\n" for s, t, _ in found.sure))
    write_atomic(folder / "README.md", card(folder, run, found))


if __name__ == "__main__":
    typer.run(main)
