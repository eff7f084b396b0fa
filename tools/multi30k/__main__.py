"""`python -m tools.multi30k FOLDER`: learn, then translate the test once."""

import json
import subprocess
import sys
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer

from reluctant.cli.common import clean_exit
from reluctant.errors import ReluctantError
from reluctant.files import write_json
from reluctant.machine import cpu_model
from reluctant.translation import journal
from reluctant.translation.pairs import Pair, read
from reluctant.translation.score import score
from reluctant.translation.translator import Translator

BEAM = 4
CONFIG = Path(__file__).with_name("run.toml")
RESULT = "test.json"


def main(
    folder: Annotated[Path, typer.Argument(help="Where train, val and test_2016_flickr are.")],
    out: Annotated[Path, typer.Option(help="Where the run is written, to go on from.")] = Path(
        "build/multi30k"
    ),
    config: Annotated[Path, typer.Option(help="The run's settings.")] = CONFIG,
) -> None:
    """Learn from train, choose on val, score test_2016_flickr once."""
    with clean_exit(None):
        done = subprocess.run(command(folder, out, config), check=False)
        if done.returncode:
            raise typer.Exit(done.returncode)
        result, model = out / RESULT, sha256((out / "model.safetensors").read_bytes()).hexdigest()
        before = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
        if before.get("model") != model:
            write_json(result, {"model": model, **tested(folder, out)})
        typer.echo(result.read_text(encoding="utf-8"))


def command(folder: Path, out: Path, config: Path) -> list[str]:
    """That learns."""
    learn = [sys.executable, "-m", "reluctant", "train", *map(str, files(folder, "train"))]
    for file in files(folder, "val"):
        learn += ["--validation", str(file)]
    for file in files(folder, "test_2016_flickr"):
        learn += ["--keep-out", str(file)]
    return [*learn, "--config", str(config), "--out", str(out)]


def files(folder: Path, name: str) -> list[Path]:
    """English and German."""
    found = [folder / f"{name}.{language}.gz" for language in ("en", "de")]
    for file in found:
        if not file.exists():
            raise ReluctantError(f"expected {file.name} in {folder}: is it Multi30k's task 1?")
    return found


def tested(folder: Path, out: Path) -> dict[str, object]:
    """The test's figures, with those of val by which everything was chosen."""
    translator = Translator(out)
    found: dict[str, object] = {"machine": cpu_model()}
    for name in ("val", "test_2016_flickr"):
        pairs: list[Pair] = read(files(folder, name))[0]
        texts = translator.translate([pair.source for pair in pairs], beam=BEAM)
        found[name] = asdict(score(texts, [pair.target for pair in pairs]))
    record = journal.read(out / journal.NAME)
    found["minutes"] = record.validations[-1]["elapsed"] / 60
    found["steps"] = record.steps[-1]["step"]
    found["curve"] = [
        {key: line.get(key) for key in ("step", "elapsed", "validation", "bleu")}
        for line in record.validations
    ]
    found["settings"] = record.settings
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


if __name__ == "__main__":
    typer.run(main)
