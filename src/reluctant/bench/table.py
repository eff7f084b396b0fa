"""The benchmark's figures for people."""

from rich import box
from rich.console import Console
from rich.table import Table

from reluctant.bench.run import TOLERANCE, Result, Row
from reluctant.machine import header

BUSY = 0.5  # load average from which on the run may have been disturbed


def show(result: Result, console: Console) -> None:
    """Print the tables, what they were measured on, and what could not be compared."""
    console.print(header("onnxruntime", "openvino"))
    console.print(
        f"float32, matmul precision '{result.precision}'; "
        f"{result.memory_bandwidth / 1e9:.0f} GB/s read from a buffer of 1 GiB"
    )
    if result.load > BUSY:
        console.print(
            f"[yellow]Load average {result.load:.1f} before the run: if that work went on beside "
            "it, these times say little.[/]"
        )
    console.print(_times(result.rows), _limits(result.rows))
    for name, reason in {k: v for row in result.rows for k, v in row.missing.items()}.items():
        console.print(f"[yellow]{name} is left out:[/] {reason}")
    for row in result.rows:
        for name in row.wrong:
            console.print(
                f"[red]{name} is wrong[/] ({_layer(row)}, {row.tokens} tokens): relative error "
                f"{row.errors[name]:.1e} against float64, float32 stays below {TOLERANCE:.0e}"
            )


def _times(rows: list[Row]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row.peers))
    ratios = ["ratio to best", "ratio to eager"]
    table = _table("Median time of one call, microseconds", ["ours", *names, *ratios])
    for row in rows:
        table.add_row(
            _layer(row),
            str(row.tokens),
            _time(row, "ours", row.ours_us),
            *(_time(row, name, row.peers.get(name)) for name in names),
            f"{row.ratio_best:.2f}x",
            f"{row.ratio_eager:.2f}x",
        )
    return table


def _limits(rows: list[Row]) -> Table:
    ways = ("few", "many", "dense")
    table = _table(
        "Ours against the machine",
        ["active", "candi- dates", "achieved", "limit", "share", "calls " + "/".join(ways)],
    )
    table.caption = (
        "Limits were measured in turns with the calls. 1 token: the bytes that must be read (the "
        "sketch, the keys of candidates, the values of active neurons), against reading a buffer "
        "of the layer's size over and over again; more than 100 %: part of the layer stays in a "
        "nearer cache. Many tokens: the operations that must be done (first product dense, second "
        "one active neurons only; what is skipped does not count), against a large product."
    )
    for row in rows:
        unit = "GB/s" if row.phase == "decode" else "GFLOP/s"
        table.add_row(
            _layer(row),
            str(row.tokens),
            f"{row.active:.1%}",
            f"{row.candidates:.1%}",
            f"{row.achieved / 1e9:.0f}",
            f"{row.limit / 1e9:.0f} {unit}",
            f"{row.limit_share:.0%}",
            "/".join(str(row.ways[way]) for way in ways),
        )
    return table


def _table(title: str, columns: list[str]) -> Table:
    """An empty table that stays legible in 80 columns: headers break at their spaces."""
    table = Table(title=title, box=box.SIMPLE, collapse_padding=True, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for column in ("tokens", *columns):
        table.add_column(column.replace(" ", "\n"), justify="right", no_wrap=True)
    return table


def _layer(row: Row) -> str:
    return f"{row.d_model}/{row.d_ff}"


def _time(row: Row, name: str, microseconds: float | None) -> str:
    if microseconds is None:
        return "-"
    return f"[red]{microseconds:.0f}![/]" if name in row.wrong else f"{microseconds:.0f}"
