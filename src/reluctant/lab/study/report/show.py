"""The document on a terminal."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reluctant.lab.study.plan import QUICK
from reluctant.lab.study.report.markdown import shown
from reluctant.lab.study.report.texts import texts


def show(document: Mapping[str, Any], console: Console) -> None:
    """What was found of each claim, its verdict and its tables; claims without results are left
    out.
    """
    if document["quick"]:
        console.print(texts("common", QUICK)["smoke"]["en"], style="yellow", markup=False)
    for claim in document["claims"]:
        if not claim["tables"]:
            continue
        console.print(f"\n{claim['title']['en']}", style="bold", markup=False)
        if not document["quick"]:
            for part in ("found", "verdict"):
                console.print(claim[part]["en"], markup=False, highlight=False)
        for table in claim["tables"]:
            console.print(_table(table))


def _table(table: Mapping[str, Any]) -> Table:
    made = Table(title=escape(table["title"]["en"]), box=box.SIMPLE, pad_edge=False)
    for i, column in enumerate(table["columns"]):
        made.add_column(escape(column["en"]), justify="right" if i else "left")
    for row in table["rows"]:
        made.add_row(*(escape(shown(cell)) for cell in row))
    return made
