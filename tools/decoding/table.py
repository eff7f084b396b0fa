"""The comparison's figures, for people and for programs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tools.decoding.runtimes import PLAIN

COLUMNS = ("search", "batch", "runtime", "tokens/s", "ratio", "tokens", "BLEU", "same")
NOTES = (
    f"Ratio: of tokens/s to those of '{PLAIN}' in the same search and batch; same: how many texts "
    "are equal to its. Tokens are those of the translations, ends among them.",
    "torch.nn.Transformer encodes once, and decodes the whole prefix anew at each step; its "
    "searches are `greedy` and `beam_search` of reluctant.transformer, as the model's above it.",
    "Beam search compares by other scores in CTranslate2, log P / length, its default, than in "
    "reluctant.transformer, log P / ((5 + length) / 6) ** 0.6: other texts may win.",
)


@dataclass(frozen=True)
class Row:
    """One runtime in one search with one size of batches.

    tokens: of all translations. seconds: of each round. same: how many of the texts are those of
    PLAIN.
    """

    runtime: str
    batch: int
    beam: int
    tokens: int
    seconds: list[float]
    tokens_per_second: float
    bleu: float
    same: int


@dataclass(frozen=True)
class Result:
    """machine: what it was measured on. load: its load average just before.

    missing: runtimes that are not there, and why.
    """

    model: str
    machine: str
    load: float
    sentences: int
    rounds: int
    threads: int
    bleu_signature: str
    rows: list[Row]
    missing: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """All of it, with the notes that a reader needs."""
        return asdict(self) | {"notes": list(NOTES)}

    def remarks(self) -> list[str]:
        """What stands below the table."""
        rounds = f", medians of {self.rounds} rounds" if self.rounds > 1 else ""
        setting = f"{self.sentences} sentences, in turns{rounds}; BLEU: {self.bleu_signature}"
        left_out = [f"{name} is left out: {reason}" for name, reason in self.missing.items()]
        machine = f"{self.machine}; load average {self.load:.1f} before the run"
        return [machine, setting, *NOTES, *left_out]


def show(result: Result, console: Console) -> None:
    """Print the table and the remarks."""
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True, title=escape(result.model))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("search", "runtime") else "right")
    before = None
    for row in result.rows:
        if before not in (None, (row.beam, row.batch)):
            table.add_section()
        before = (row.beam, row.batch)
        table.add_row(*_cells(row, result))
    console.print(table)
    for remark in result.remarks():
        console.print(escape(remark))


def markdown(result: Result) -> str:
    """The same as a page's part.

    >>> row = Row("no engine", 1, 4, 50, [0.5], 100.0, 30.0, 9)
    >>> result = Result("kept", "a machine", 0.1, 9, 1, 2, "signature", [row], {})
    >>> print(markdown(result).splitlines()[2])
    | beam 4 | 1 | no engine | 100 | 1.00 | 50 | 30.0 | 9 |
    """
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(_cells(row, result)) + " |" for row in result.rows]
    return "\n".join([*lines, "", *(f"- {remark}" for remark in result.remarks())]) + "\n"


def _cells(row: Row, result: Result) -> Sequence[str]:
    plain = next(
        other
        for other in result.rows
        if other.runtime == PLAIN and (other.beam, other.batch) == (row.beam, row.batch)
    )
    return (
        "greedy" if row.beam == 1 else f"beam {row.beam}",
        str(row.batch),
        row.runtime,
        f"{row.tokens_per_second:.0f}",
        f"{row.tokens_per_second / plain.tokens_per_second:.2f}",
        str(row.tokens),
        f"{row.bleu:.1f}",
        str(row.same),
    )
