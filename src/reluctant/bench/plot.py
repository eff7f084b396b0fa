"""The picture of docs/figures.md: speed-up against density, and cost against d_ff."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reluctant.bench.grid import SWEEP_ACTIVE, SWEEP_SHAPE, SWEEP_SIZES
from reluctant.bench.row import Row
from reluctant.errors import ReluctantError
from reluctant.files import check_writable, write_atomic
from reluctant.machine import cpu_model

FORMATS = ("svg", "png", "pdf")
LINES = {1: "decode: 1 token", 8: "few: 8 tokens", 512: "many: 512 tokens"}
COLOURS = {1: "#0072b2", 8: "#d55e00", 512: "#009e73"}  # told apart by the colour-blind, too
STYLE: Any = {
    "svg.hashsalt": "reluctant",  # the same figures give the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def check(path: Path) -> None:
    """Refuse, before a long run, a picture that could not be drawn after it.

    Raises:
        ReluctantError: the file's ending is none of `FORMATS`, its folder is not there, or
            matplotlib is not installed.
    """
    if path.suffix.lstrip(".").lower() not in FORMATS:
        endings = ", ".join(f".{name}" for name in FORMATS)
        raise ReluctantError(f"expected a picture that ends in one of {endings}; got {path}")
    check_writable(path)
    try:
        import matplotlib  # noqa: F401, PLC0415  an extra
    except ImportError as error:
        raise ReluctantError(
            f"a picture needs matplotlib ({error}): pip install 'reluctant[bench]'"
        ) from error


def load(path: Path) -> list[Row]:
    """The rows that `reluctant bench --json` has written.

    Raises:
        ReluctantError: there is no such file, or it holds something else.
    """
    try:
        return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReluctantError(
            f"expected a file that this version's reluctant bench --json has written; {path}: "
            f"{error}"
        ) from error


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw both panels from what is among the rows, and write them to `path`.

    Raises:
        ReluctantError: there is nothing to draw, or as `check`.
    """
    check(path)
    from matplotlib import rc_context  # noqa: PLC0415
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    lines, sizes = by_density(fitting(rows)), by_size(fitting(rows))
    if not lines and len(sizes) < 2:
        raise ReluctantError(
            "expected rows of several densities or sizes, found none: let reluctant bench --plot "
            "FILE measure them"
        )
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        _draw_density(left, lines)
        _draw_size(right, sizes)
        figure.suptitle(
            f"float32, weights not in the nearer caches (the layers of a model in turn); "
            f"{cpu_model()}",
            fontsize=8,
            color="#555555",
            parse_math=False,  # a processor's name is no formula
        )
        save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure; the same figure gives the same file."""
    content = io.BytesIO()
    kind = path.suffix.lstrip(".").lower()
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    figure.savefig(content, format=kind, dpi=150, metadata=dated)
    write_atomic(path, content.getvalue())


def fitting(rows: Sequence[Row]) -> list[Row]:
    """Rows of drawn ReLU layers in float32, cold."""
    return [
        row
        for row in rows
        if row.cold and row.density is not None and not row.gated
        and (row.dtype, row.activation) == ("float32", "relu")
    ]  # fmt: skip


def by_density(rows: list[Row]) -> dict[int, list[Row]]:
    """Tokens -> the rows of the layer that the density was changed in."""
    shape = (SWEEP_SHAPE.d_model, SWEEP_SHAPE.d_ff)
    chosen = [row for row in rows if (row.d_model, row.d_ff) == shape]
    lines = {
        n: sorted([row for row in chosen if row.tokens == n], key=lambda row: row.active)
        for n in LINES
    }
    return {n: line for n, line in lines.items() if len(line) > 1}


def by_size(rows: list[Row]) -> list[Row]:
    """The rows with one and the same number of active neurons, by d_ff."""
    chosen = [
        row
        for row in rows
        if row.tokens == 1
        and row.d_model == SWEEP_SHAPE.d_model
        and row.density is not None
        and round(row.density * row.d_ff) == SWEEP_ACTIVE
    ]
    return sorted(chosen, key=lambda row: row.d_ff)


def _draw_density(axes: Any, lines: dict[int, list[Row]]) -> None:
    for tokens, rows in lines.items():
        x, y = [100 * row.active for row in rows], [row.ratio_best for row in rows]
        axes.plot(x, y, "o-", color=COLOURS[tokens], label=LINES[tokens], markersize=4)
    axes.axhline(1, color="#888888", linewidth=0.8, linestyle="--")
    axes.set_xscale("log", base=2)
    ticks = [1, 2, 4, 8, 16, 32]
    axes.set_xticks(ticks, [f"{n} %" for n in ticks])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("active neurons")
    axes.set_title(f"Times faster than the best dense runtime, {SWEEP_SHAPE}", fontsize=9)
    if lines:
        axes.legend(frameon=False)


def _draw_size(axes: Any, rows: list[Row]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator  # noqa: PLC0415

    x = [row.d_ff for row in rows]
    dense = [row.peers[row.best] for row in rows]
    axes.plot(x, dense, "s-", color="#555555", label="best dense runtime", markersize=4)
    axes.plot(x, [row.ours_us for row in rows], "o-", color=COLOURS[1], label="ours", markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(SWEEP_SIZES, [str(n) for n in SWEEP_SIZES])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"d_ff (d_model {SWEEP_SHAPE.d_model})")
    axes.set_title(f"Microseconds a token, {SWEEP_ACTIVE} neurons active", fontsize=9)
    axes.legend(frameon=False)
