"""The picture: what a step takes, by density, for each shape."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reluctant.bench.plot import STYLE, check, save
from reluctant.bench.train.row import Row
from reluctant.errors import ReluctantError
from reluctant.machine import cpu_model

COLOURS = {  # told apart by the colour-blind, too
    "ours": "#d55e00",
    "eager": "#0072b2",
    "compile": "#009e73",
    "checkpoint": "#cc79a7",
    "oneDNN": "#555555",
}
MARKERS = {"ours": "o"}
_DERIVED = ("ratio_eager", "ratio_best", "ratio_kept")


def load(path: Path) -> list[Row]:
    """The rows that `reluctant bench --phases train --json` has written.

    Raises:
        ReluctantError: there is no such file, or it holds something else.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return [Row(**{k: v for k, v in row.items() if k not in _DERIVED}) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReluctantError(
            f"expected a file that this version's reluctant bench --phases train --json has "
            f"written; {path}: {error}"
        ) from error


def panels(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each panel, by density: a shape each, in float32 if there is such, of one layer
    if there is such, with as many tokens as most shapes have, more rather than fewer."""
    for kind in ("layer", "stack"):
        chosen = [row for row in rows if row.kind == kind]
        dtype = min((row.dtype for row in chosen), key=lambda name: name != "float32", default="")
        chosen = [row for row in chosen if row.dtype == dtype]
        found: list[list[Row]] = []
        for tokens in sorted({row.tokens for row in chosen}):
            shapes: dict[tuple[int, int, bool], list[Row]] = {}
            for row in chosen:
                if row.tokens == tokens:
                    shapes.setdefault((row.d_model, row.d_ff, row.gated), []).append(row)
            lines = [sorted(each, key=lambda row: row.density) for each in shapes.values()]
            lines = [line for line in lines if len({row.density for row in line}) > 1]
            found = max(found, lines, key=lambda each: (len(each), each is lines))
        if found:
            return found
    return []


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw what is among the rows, and write it to `path`.

    Raises:
        ReluctantError: there is nothing to draw, or as `reluctant.bench.plot.check`.
    """
    check(path)
    from matplotlib import rc_context  # noqa: PLC0415
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    lines = panels(rows)
    if not lines:
        raise ReluctantError(
            "expected rows of several densities, found none: let reluctant bench --phases train "
            "--plot FILE measure them"
        )
    with rc_context(STYLE):
        figure = Figure(figsize=(max(3.2 * len(lines), 4.5), 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, line in zip(figure.subplots(1, len(lines), squeeze=False)[0], lines, strict=True):
            _draw(axes, line)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        first = lines[0][0]
        what = "one layer" if first.kind == "layer" else f"{first.layers} layers"
        figure.suptitle(
            f"A training step of {what}, {first.tokens} tokens, {first.dtype}; {cpu_model()}",
            fontsize=8,
            color="#555555",
            parse_math=False,  # a processor's name is no formula
        )
        save(figure, path)


def _draw(axes: Any, rows: list[Row]) -> None:
    from matplotlib.ticker import NullLocator  # noqa: PLC0415

    densities = [100 * row.density for row in rows]
    for name, colour in COLOURS.items():
        points = [(100 * row.density, {"ours": row.ours_ms, **row.peers}.get(name)) for row in rows]
        some = [(x, y) for x, y in points if y is not None]
        if some:
            x, y = zip(*some, strict=True)
            style = {"color": colour, "marker": MARKERS.get(name, "s"), "label": name}
            axes.plot(x, y, markersize=4, **style)
    axes.set_xscale("log")
    axes.set_xticks(densities, [f"{p:.3g} %" for p in densities])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.set_xlabel("active neurons")
    axes.set_ylabel("milliseconds")
    row = rows[0]
    axes.set_title(f"{row.d_model}/{row.d_ff}{'g' if row.gated else ''}", fontsize=9)
