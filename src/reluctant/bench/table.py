"""The benchmark's figures for people."""

from rich import box
from rich.columns import Columns
from rich.console import Console
from rich.table import Table

from reluctant.bench.row import Row
from reluctant.bench.run import Result
from reluctant.machine import header, last_level_cache

BUSY = 0.5  # load average from which on the run may have been disturbed
SHORT = {"float32": "f32", "bfloat16": "bf16"}


def show(result: Result, console: Console) -> None:
    """Print the tables, what they were measured on, and what could not be compared."""
    if result.limited_to:
        console.print(
            f"As on a processor with {result.limited_to}: torch, oneDNN, MKL and the engine were "
            "told to use no more; what cannot be told (ONNX Runtime, OpenVINO, torch int8) is left "
            "out."
        )
        console.print(header())
    else:
        console.print(header("onnxruntime", "openvino"))
    if result.table:
        console.print(f"table of limits: {result.table}", markup=False, soft_wrap=True)
    cache = last_level_cache()
    says = f"; last-level cache {cache / 2**20:.0f} MB" if cache else ""
    console.print(
        f"float32 products in precision '{result.precision}'; "
        f"{result.memory_bandwidth / 1e9:.0f} GB/s read from a buffer of 1 GiB{says}"
    )
    if result.load > BUSY:
        console.print(
            f"[yellow]Load average {result.load:.1f} before the run: if that work went on beside "
            "it, these times say little.[/]"
        )
    console.print(_ratios(result.rows), _peers(result.rows), _limits(result.rows))
    for name, reason in {k: v for row in result.rows for k, v in row.missing.items()}.items():
        console.print(f"[yellow]{name} is left out:[/]", reason, markup=True)
    for name, reason in result.skipped.items():
        console.print(f"[yellow]{name} is left out:[/] {reason}")
    for row in result.rows:
        for name in row.wrong:
            console.print(
                f"[red]{name} is wrong[/] ({_layer(row)}, {row.dtype}, {row.tokens} tokens): "
                f"relative error {row.errors[name]:.1e} against float64, where the rounding of "
                f"{row.dtype} stays below {row.tolerance:.0e}"
            )


def _ratios(rows: list[Row]) -> Table:
    table = _table(
        "Median time of one call, microseconds, and how many times ours it takes others",
        ["ours", "best", "dense peer", "ratio to best", "to eager", "to ~int8"],
    )
    table.caption = (
        "cold: the calls go round the layers of a model (their number), so that the weights have "
        "left the caches as far as they do in a model; warm: one layer over and over again. best: "
        "the fastest dense peer with the same weights in the same dtype (ORT: ONNX Runtime). "
        "~int8: the fastest approximate one (int8 weights, or float32 ones rounded to bfloat16)."
    )
    for row in rows:
        int8 = "-" if row.ratio_int8 is None else f"{row.ratio_int8:.2f}x"
        table.add_row(
            *_which(row),
            _number(row.ours_us),
            _number(row.peers[row.best]),
            row.best.replace("ONNX Runtime", "ORT"),
            f"{row.ratio_best:.2f}x",
            f"{row.ratio_eager:.2f}x",
            int8,
        )
    return table


def _peers(rows: list[Row]) -> Table:
    table = Table(
        title="Everyone: microseconds (relative error against float64)",
        box=box.SIMPLE,
        pad_edge=False,
        show_header=False,
        expand=True,
    )
    table.add_column(no_wrap=True)
    table.add_column()
    table.caption = "~ approximate by design: it computes something else, and is no rival."
    for row in rows:
        times = {"ours": row.ours_us, **row.peers}
        everyone = [_time_and_error(row, name, time) for name, time in times.items()]
        table.add_row(" ".join(_which(row)), Columns(everyone, padding=(0, 3)))
    return table


def _limits(rows: list[Row]) -> Table:
    table = _table(
        "Ours against the machine: GB/s up to 16 tokens, GFLOP/s beyond",
        ["active", "candi- dates", "done", "limit", "share", "mostly"],
    )
    table.caption = (
        "Limits were measured in turns with the calls. Up to 16 tokens: the bytes that must be "
        "read (few: the sketch, the keys of candidates, the values of active neurons), against "
        "reading a buffer as large as what one round over the layers reads, again and again: from "
        "the cache it fits in, or from memory; more than 100 %: parts stay in a nearer cache. "
        "Many tokens: the operations that must be done (first product dense, second one active "
        "neurons only; what is skipped does not count), against a large product."
    )
    for row in rows:
        table.add_row(
            *_which(row),
            f"{row.active:.1%}",
            f"{row.candidates:.1%}",
            f"{row.achieved / 1e9:.0f}",
            f"{row.limit / 1e9:.0f}",
            f"{row.limit_share:.0%}",
            max(row.ways, key=lambda way: row.ways[way]),
        )
    return table


def _table(title: str, columns: list[str]) -> Table:
    """An empty table that stays legible in 100 columns: headers break at their spaces."""
    table = Table(title=title, box=box.SIMPLE, collapse_padding=True, pad_edge=False)
    for column in ("layer", "type", "tok- ens", "cold"):
        table.add_column(column.replace(" ", "\n"), no_wrap=True)
    for column in columns:
        table.add_column(column.replace(" ", "\n"), justify="right")
    return table


def _which(row: Row) -> tuple[str, str, str, str]:
    """The first cells of a row: which layer, and how it was called."""
    return _layer(row), SHORT[row.dtype], str(row.tokens), f"{row.layers}" if row.cold else "warm"


def _layer(row: Row) -> str:
    shape = f"{row.d_model}/{row.d_ff}{'g' if row.gated else ''}"
    if row.density is None:
        return f"{shape} real"
    return f"{shape} {row.activation if row.activation != 'relu' else f'{row.density:.0%}'}"


def _number(microseconds: float) -> str:
    return f"{microseconds:.0f}" if microseconds < 1e5 else f"{microseconds / 1e3:.0f}k"


def _time_and_error(row: Row, name: str, microseconds: float) -> str:
    sign = "~" if name in row.approximate else ""
    error = f"{row.errors[name]:.0e}".replace("e-0", "e-")
    text = f"{sign}{name} {_number(microseconds)} ({error})"
    return f"[red]{text}![/]" if name in row.wrong else text
