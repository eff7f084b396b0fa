"""The comparison for people."""

from statistics import median

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reluctant.machine import header
from reluctant.whole.alike.judge import DIFFERENT, SAME, TIE
from reluctant.whole.alike.run import Result

MOST = 20  # differences that are printed one by one


def show(result: Result, console: Console) -> None:
    """Print the table, each continuation that is not the same, and the verdict."""
    console.print(escape(header("transformers")))
    table = Table(
        title=Text(f"{result.name}: reluctant.generate against model.generate, float32"),
        caption=f"{result.new} new tokens each, prompts of {result.prompts}; batched: in batches "
        "of four. Rows: of the output projection, read exactly for one decision, the median and "
        "the most; all: decisions that took all logits. Faster: time of all calls, untouched to "
        "ours.",
        box=box.SIMPLE,
    )
    kinds = ("n", "batched", SAME, "ties", DIFFERENT)
    for column in ("", *kinds, "rows", "most", "all", "faster"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for method in result.methods:
        rows = method.rows
        table.add_row(
            method.name,
            str(len(method.verdicts)),
            str(method.batched),
            *(str(method.count(kind)) for kind in (SAME, TIE, DIFFERENT)),
            f"{median(rows):.0f}" if rows else "-",
            str(max(rows)) if rows else "-",
            str(method.all_logits) if rows else "-",
            f"{method.seconds[0] / method.seconds[1]:.2f}x",
        )
    console.print(table)
    others = [
        (method.name, number, verdict)
        for method in result.methods
        for number, verdict in enumerate(method.verdicts)
        if verdict.kind != SAME
    ]
    for name, number, verdict in others[:MOST]:
        color = "yellow" if verdict.kind == TIE else "red"
        where = "" if verdict.at is None else f" from new token {verdict.at} on"
        console.print(f"[{color}]{verdict.kind}[/]: {name}, {number}{where}: {verdict.says}")
    if len(others) > MOST:
        console.print(f"and {len(others) - MOST} more")
    for reason, times in result.reasons.items():
        console.print(f"{times} calls as without us: {escape(reason)}")
    if result.alike:
        console.print("[green]yes[/] the same tokens, but for ties within rounding")
    else:
        console.print("[red]NO [/] some tokens differ by more than rounding")
