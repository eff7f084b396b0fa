"""The document as Markdown, between two marks of a file that is otherwise written by hand."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reluctant.errors import ReluctantError
from reluctant.files import write_atomic
from reluctant.lab.study.plan import FULL
from reluctant.lab.study.report.texts import texts

BEGIN = "<!-- study: written by `reluctant study --markdown`; do not edit -->"
END = "<!-- end of study -->"
PARTS = (
    ("claim", "The claim", "论断"),
    ("done", "What was done", "做了什么"),
    ("found", "What was found", "发现"),
    ("literature", "The literature", "文献"),
    ("verdict", "Verdict", "结论"),
    ("limits", "What it does not show", "没有说明什么"),
)


def write(file: Path, document: Mapping[str, Any]) -> None:
    """Put the document between the marks of a file, atomically.

    Raises ReluctantError if the file has not both marks, or cannot be read or written.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReluctantError(f"expected a Markdown file with the study's marks: {error}") from error
    write_atomic(file, filled(text, document))


def filled(text: str, document: Mapping[str, Any]) -> str:
    """The text with the document between its two marks. Raises ReluctantError if they are missing.

    >>> filled("before", {"claims": []})
    Traceback (most recent call last):
        ...
    reluctant.errors.ReluctantError: expected the two lines that the study stands between: \
<!-- study: written by `reluctant study --markdown`; do not edit --> and <!-- end of study -->
    """
    pattern = f"{re.escape(BEGIN)}.*?{re.escape(END)}"
    if not re.search(pattern, text, re.DOTALL):
        raise ReluctantError(
            f"expected the two lines that the study stands between: {BEGIN} and {END}"
        )
    made = f"{BEGIN}\n\n{rendered(document)}\n{END}"
    return re.sub(pattern, lambda match: made, text, count=1, flags=re.DOTALL)


def rendered(document: Mapping[str, Any]) -> str:
    """The document as Markdown, both languages."""
    lines: list[str] = []
    machine, quick = document["machine"], document["quick"]
    if machine:
        seeds = ", ".join(map(str, document["seeds"]))
        lines += [f"Measured on {machine}; seeds {seeds}.{' A smoke run.' if quick else ''}", ""]
    else:
        lines += ["There are no results yet.", ""]
    spread = texts("common", FULL)["spread"]
    lines += [spread["en"], "", spread["zh"], ""]
    if document["claims"]:
        glance = document["glance"]
        lines += [*_table(glance, "en"), *_table(glance, "zh")]
    for claim in document["claims"]:
        lines += _claim(claim)
    return "\n".join(lines)


def _claim(claim: Mapping[str, Any]) -> list[str]:
    lines = [f"## {claim['title']['en']} / {claim['title']['zh']}", ""]
    for key, name, _ in PARTS:
        lines += _part(f"**{name}.** ", claim[key], "en")
    for key, _, name in PARTS:
        lines += _part(f"**{name}**：", claim[key], "zh")
    for table in claim["tables"]:
        lines += _table(table)
    for command in claim["commands"]:
        lines += [f"    {' '.join(command.split())}", ""]
    return lines


def _part(name: str, text: Any, language: str) -> list[str]:
    """One text, or a list of them."""
    if isinstance(text, list):
        return [name.rstrip(), "", *(f"- {_plain(each[language])}" for each in text), ""]
    return [name + _plain(text[language]), ""]


def _table(table: Mapping[str, Any], language: str = "") -> list[str]:
    """language: of the title and of what is text; none: both titles, texts in English."""
    heads = [column[language or "en"] for column in table["columns"]]
    rows = [[shown(cell, language or "en") for cell in row] for row in table["rows"]]
    title = table["title"][language] if language else " / ".join(table["title"].values())
    return [title, "", _row(heads), _row(["---"] * len(heads)), *map(_row, rows), ""]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def shown(cell: Any, language: str = "en") -> str:
    """A cell as people read it: a text, or the mean and in brackets the spread.

    >>> shown({"mean": 3.14, "spread": 0.02, "values": [3.13, 3.15]}), shown(478464), shown("–")
    ('3.14 (0.02)', '478,464', '–')
    """
    if isinstance(cell, Mapping) and "en" in cell:
        return str(cell[language])
    if isinstance(cell, Mapping):
        values = cell["values"]  # the mean is already rounded, and would be so twice
        spread = f" ({cell['spread']:.2g})" if len(values) > 1 else ""
        return f"{sum(values) / len(values):.4g}{spread}"
    return (
        f"{cell:,}" if isinstance(cell, int) else f"{cell:.4g}" if isinstance(cell, float) else cell
    )


def _plain(text: str) -> str:
    """Nothing of it is markup."""
    return text.replace("<", "&lt;").replace("*", "\\*")
