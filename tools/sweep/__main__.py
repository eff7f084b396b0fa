"""`python -m tools.sweep CORPUS OUT`."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from reluctant.files import write_json
from reluctant.machine import cpu_model
from reluctant.translation import journal
from reluctant.translation.data import Data, gather
from reluctant.translation.score import score
from reluctant.translation.settings import read_settings
from reluctant.translation.train import Run
from reluctant.translation.translator import Translator

SETTINGS = Path(__file__).parents[1] / "kept" / "en-de.toml"
PART = 5  # every fifth pair
TIMED, ROUNDS = 50, 5
COLUMNS = ("d_ff / d_model", "parameters", "nats", "BLEU", "chrF", "active", "ms a token")


def main(
    corpus: Annotated[Path, typer.Argument(help="What `python -m tools.corpus` wrote.")],
    out: Annotated[Path, typer.Argument(help="Where the runs and result.json are written.")],
    ratios: Annotated[str, typer.Option(help="Separated by commas.")] = "4,8,16",
    steps: Annotated[int, typer.Option(help="Of each run.")] = 3000,
    minutes: Annotated[float, typer.Option(help="Of each run, at most.")] = 30,
    config: Annotated[Path, typer.Option(help="Settings; d_ff is the sweep's.")] = SETTINGS,
    device: Annotated[str, typer.Option(help="cpu (with the engine), or what torch has.")] = "cpu",
) -> None:
    """Train one model a ratio, then decode with all of them in turns."""
    given = {"steps": steps, "minutes": minutes, "device": device, "score_sentences": 0}
    settings = read_settings(config, {**given, "engine": device == "cpu"})
    whole = gather([corpus / "train"], [corpus / "valid.tsv"], [], settings)
    data = Data(whole.train[::PART], whole.valid, whole.counts)
    found, translators = {}, {}
    for ratio in map(int, ratios.split(",")):
        run = Run(out / str(ratio), data, replace(settings, d_ff=ratio * settings.d_model))
        run.train()
        translators[ratio] = Translator(out / str(ratio))
        found[ratio] = _judged(run, translators[ratio])
        typer.echo(json.dumps({"ratio": ratio, **found[ratio]}))
    for ratio, milliseconds in _decoded(translators, data).items():
        found[ratio]["ms a token"] = milliseconds
    write_json(out / "result.json", {"machine": cpu_model(), "steps": steps, "ratios": found})
    table = Table(*COLUMNS)
    for ratio, each in found.items():
        table.add_row(str(ratio), *(str(each[name]) for name in COLUMNS[1:]))
    Console().print(table)


def _judged(run: Run, translator: Translator) -> dict[str, Any]:
    record = journal.read(run.folder / journal.NAME)
    texts = translator.translate([pair.source for pair in run.data.valid])
    scores = score(texts, [pair.target for pair in run.data.valid])
    counted = [line for line in record.steps if line.get("density")]
    shares = [share for share in counted[-1]["density"].values() if share is not None]
    return {
        "parameters": record.header["parameters"],
        "nats": round(run.progress.best or 0.0, 3),
        "BLEU": round(scores.bleu, 2),
        "chrF": round(scores.chrf, 1),
        "active": f"{min(shares):.1%} to {max(shares):.1%}",
        "minutes": round(run.progress.seconds / 60, 1),
        "steps": run.progress.step,
    }


def _decoded(translators: dict[int, Translator], data: Data) -> dict[int, float]:
    """Milliseconds a token, sentence by sentence, the models in turns; medians of rounds."""
    sentences = [pair.source for pair in data.valid[:TIMED]]
    taken: dict[int, list[float]] = {ratio: [] for ratio in translators}
    tokens: dict[int, int] = {}
    for turn in range(ROUNDS + 1):
        for ratio, translator in translators.items():
            if not turn:  # compiles, and counts
                found = translator.translations(sentences)
                tokens[ratio] = sum(len(best.tokens) + 1 for (best,) in found)
            began = perf_counter()
            for sentence in sentences:
                translator.translate([sentence])
            if turn:
                taken[ratio].append(1e3 * (perf_counter() - began) / tokens[ratio])
    return {ratio: round(median(each), 3) for ratio, each in taken.items()}


if __name__ == "__main__":
    typer.run(main)
