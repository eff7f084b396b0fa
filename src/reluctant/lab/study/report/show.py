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
    """All claims at a glance, then what was found of each, its verdict and its tables; claims
    without results are left out.
    """
    if document["quick"]:
        console.print(texts("common", QUICK)["smoke"]["en"], style="yellow", markup=False)
    else:
        console.print(_table(document["glance"]))
    for claim in document["claims"]:
        if not claim["tables"]:
            continue
        console.print(f"\n{claim['title']['en']}", style="bold", markup=False)
        if not document["quick"]:
            for each in (*claim["found"], claim["verdict"]):
                console.print(each["en"], markup=False, highlight=False)
        for table in claim["tables"]:
            console.print(_table(table))


def _table(table: Mapping[str, Any]) -> Table:
    made = Table(title=escape(table["title"]["en"]), box=box.SIMPLE, pad_edge=False)
    for i, column in enumerate(table["columns"]):
        words = all(isinstance(row[i], Mapping) and "en" in row[i] for row in table["rows"])
        left = i == 0 or words
        made.add_column(escape(column["en"]), justify="left" if left else "right")
    for row in table["rows"]:
        made.add_row(*(escape(shown(cell)) for cell in row))
    return made
