"""The figures for people."""

from collections.abc import Sequence

from rich import box
from rich.columns import Columns
from rich.console import Console
from rich.table import Table

from reluctant.bench.table import BUSY, SHORT
from reluctant.bench.train.grid import KINDS
from reluctant.bench.train.memory import Memory
from reluctant.bench.train.row import AS_TRUE, Row
from reluctant.bench.train.run import Result
from reluctant.machine import header


def show(result: Result, console: Console) -> None:
    """Print the tables, what they were measured on, and what could not be compared."""
    if result.limited_to:
        console.print(f"As on a processor with {result.limited_to}, torch and its libraries too.")
    console.print(header("numba"))
    if result.table:
        console.print(f"table of limits: {result.table}", markup=False, soft_wrap=True)
    console.print(f"float32 products in precision '{result.precision}'")
    if result.load > BUSY:
        console.print(
            f"[yellow]Load average {result.load:.1f} before the run: if that work went on beside "
            "it, these times say little.[/]"
        )
    console.print(_times(result.rows), _everyone(result.rows))
    if result.memory:
        console.print(_memory(result.memory))
    for name, reason in {k: v for row in result.rows for k, v in row.missing.items()}.items():
        console.print(f"[yellow]{name} is left out:[/]", reason, markup=True)
    for name, reason in result.skipped.items():
        console.print(f"[yellow]{name} is left out:[/] {reason}")
    for row in result.rows:
        for name in row.wrong:
            what = ", ".join(
                f"{tensor} {row.errors[name][tensor]:.1e} (eager {row.errors['eager'][tensor]:.1e})"
                for tensor in row.wrong_tensors(name)
            )
            console.print(
                f"[red]{name} is wrong[/] ({' '.join(_which(row))} tokens): relative errors "
                f"against float64 of more than {AS_TRUE} times eager's: {what}"
            )


def _times(rows: Sequence[Row]) -> Table:
    table = _table(
        "A training step: milliseconds, medians, and how many times ours it takes others",
        ["ours", "best", "dense peer", "ratio to best", "to eager", "keeps MB", "eager ours", "act-"
         " ive"],
    )  # fmt: skip
    table.caption = (
        "6 layers: x = norm(x + layer(x)) each. best: the fastest dense peer whose output and "
        "gradients are right. keeps: what ours keeps between forward and backward besides x and "
        "the weights (MB: 2^20 bytes), and how many times as much eager does. active: how many of "
        "our layers' calls went over active neurons only; the others were dense."
    )
    for row in rows:
        calls = max(sum(row.ways.values()), 1)
        table.add_row(
            *_which(row),
            _number(row.ours_ms),
            _number(row.peers[row.best]),
            row.best.replace("checkpoint", "checkpt"),
            f"{row.ratio_best:.2f}x",
            f"{row.ratio_eager:.2f}x",
            _megabytes(row.kept["ours"]),
            "-" if row.ratio_kept is None else f"{row.ratio_kept:.1f}x",
            f"{row.ways.get('training', 0) / calls:.0%}",
        )
    return table


def _everyone(rows: Sequence[Row]) -> Table:
    table = Table(
        title="Everyone: milliseconds (largest relative error against float64; MB kept)",
        box=box.SIMPLE,
        pad_edge=False,
        show_header=False,
        expand=True,
    )
    table.add_column(no_wrap=True)
    table.add_column()
    table.caption = (
        "Errors: of the output and of the gradients of x, weights and biases, the largest of all. "
        "checkpoint keeps each layer's x only and computes the layer a second time."
    )
    for row in rows:
        times = {"ours": row.ours_ms, **row.peers}
        texts = [_one(row, name, time) for name, time in times.items()]
        table.add_row(" ".join(_which(row)), Columns(texts, padding=(0, 3)))
    return table


def _one(row: Row, name: str, milliseconds: float) -> str:
    error = f"{row.worst(name):.0e}".replace("e-0", "e-")
    text = f"{name} {_number(milliseconds)} ({error}; {_megabytes(row.kept[name])})"
    return f"[red]{text}![/]" if name in row.wrong else text


def _memory(found: Sequence[Memory]) -> Table:
    names = list(dict.fromkeys(name for each in found for name in each.added))
    others = [name for name in names if name != "ours"]
    columns = [*names, *(f"{name} ours" for name in others), "before"]
    columns = [name.replace("checkpoint", "check- point") for name in columns]
    table = _table("Memory that a step adds to a process at its peak: MB", columns)
    table.caption = (
        "Each in a process of its own, two steps, gradients of all weights included. before: what "
        "ours had in memory before them - libraries, weights, x, a step with 256 tokens - which is "
        "subtracted, of each its own. The C library was told to give freed memory back at once."
    )
    for each in found:
        ours = max(each.added["ours"], 1)
        table.add_row(
            *_which(each),
            *(_megabytes(each.added[name]) for name in names),
            *(f"{each.added[name] / ours:.2f}x" for name in others),
            _megabytes(each.before["ours"]),
        )
    return table


def _table(title: str, columns: list[str]) -> Table:
    """An empty table that stays legible in 80 columns: headers break at their spaces."""
    table = Table(title=title, box=box.SIMPLE, padding=0)
    for column in ("lay- ers", "", "type", "tok- ens"):
        table.add_column(column.replace(" ", "\n"), no_wrap=True)
    for column in columns:
        table.add_column(column.replace(" ", "\n"), justify="right")
    return table


def _which(row: Row | Memory) -> tuple[str, str, str, str]:
    """The first cells of a row."""
    shape = f"{row.d_model}/{row.d_ff}{'g' if row.gated else ''} {100 * row.density:.3g}%"
    return str(KINDS[row.kind]), shape, SHORT[row.dtype], str(row.tokens)


def _number(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def _megabytes(n_bytes: int) -> str:
    megabytes = n_bytes / 2**20
    return f"{megabytes:.0f}" if megabytes >= 100 else f"{megabytes:.2g}"
