"""The model's card, as Markdown."""

from pathlib import Path
from typing import Any

from reluctant.translation import journal
from tools.kept.measure import COUNTED, SURE, Measured

NAMES = {
    "general": "1,000 held-out sentences of the dictionary's",
    "help": "1,000 of the help texts",
}

TEXT = Path(__file__).with_name("card.md").read_text(encoding="utf-8")


def card(folder: Path, run: Path, found: Measured) -> str:
    """Of the model in `folder`, from the journal of its run and what was measured."""
    record = journal.read(run / journal.NAME)
    settings, header, steps = record.settings, record.header, record.steps
    best = min(record.validations, key=lambda line: line["validation"])
    general = next(iter(found.scores.values()))
    return TEXT.format(
        **{key: settings[key] for key in ("d_model", "d_ff")},
        layers=f"{settings['encoder_layers']} + {settings['decoder_layers']}",
        parameters=header["parameters"],
        vocabulary=header["vocabulary"],
        pairs=header["counts"]["to learn from"],
        command=header["command"].replace("__main__.py", "reluctant"),
        machine=header["machine"],
        steps=steps[-1]["step"],
        best_step=best["step"],
        tokens=sum(line["tokens"] for line in steps),
        minutes=max(line["elapsed"] for line in (*steps, *record.validations)) / 60,
        first_rate=_rate(steps[:100]),
        last_rate=_rate(steps[-1000:]),
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        counts=_table(("pairs of the training text", ""), list(header["counts"].items())),
        beam=4,
        bleu_signature=f"`{general.bleu_signature}`",
        chrf_signature=f"`{general.chrf_signature}`",
        scores=_table(
            ("", "", "BLEU", "chrF"),
            [
                (NAMES[s], way, f"{v.bleu:.1f}", f"{v.chrf:.1f}")
                for (s, way), v in found.scores.items()
            ],
        ),
        shown=_table(
            ("English", "reference", "translation"),
            [(p.source, p.target, t) for p, t in found.shown],
        ),
        sure=len(found.sure),
        margin=SURE,
        counted=COUNTED,
        density=_table(
            ("layer", "active"),
            [
                (n.removesuffix(".feed_forward"), f"{share:.1%}")
                for n, share in found.density.items()
            ],
        ),
    )


def _rate(lines: list[journal.Line]) -> float:
    return float(sum(l["tokens"] for l in lines) / sum(l["seconds"] for l in lines))  # noqa: E741


def _table(header: tuple[str, ...], rows: list[Any]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(each) for each in line) + " |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text.replace("|", "\\|")
