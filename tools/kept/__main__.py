"""`python -m tools.kept RUN CORPUS FOLDER`."""

import shutil
import tempfile
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
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        new = Path(made) / folder.name  # whole, or not there
        save(load(run).half(), new)
        for name in ("tokenizer.json", "learning.svg"):
            shutil.copyfile(run / name, new / name)
        for name in (*SETS, "SOURCES.md"):
            shutil.copyfile(corpus / name, new / name)
        shutil.copytree(corpus / "notices", new / "notices")
        shutil.copyfile(LICENSE, new / "LICENSE")
        found = measure(new, {name[5:-4]: new / name for name in SETS})
        write_atomic(new / "exact.tsv", "".join(f"{s}\t{t}\n" for s, t, _ in found.sure))
        write_atomic(new / "README.md", card(new, run, found))
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


if __name__ == "__main__":
    typer.run(main)
