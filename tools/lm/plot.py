"""The picture: losses, time, density and memory of the runs, with the engine and without."""

import io
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from reluctant.bench.plot import STYLE
from reluctant.files import write_atomic
from tools.lm.record import WINDOW, Record

COLOURS = {False: "#0072b2", True: "#d55e00"}  # without the penalty, and with it
SPARSE = 5  # steps between two points of a density


def draw(runs: list[Record], path: Path) -> None:
    """All four panels, of the runs on as many threads as the first."""
    threads = runs[0].settings["threads"]
    runs = [run for run in runs if run.settings["threads"] == threads]
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 6.2), layout="constrained")
        FigureCanvasAgg(figure)
        (losses, times), (densities, memory) = figure.subplots(2, 2)
        for run in runs:
            smoothed = run.losses()
            losses.plot(range(len(run.steps) - len(smoothed) + 1, len(run.steps) + 1), smoothed,
                        label=run.label, **_style(run))  # fmt: skip
            minutes = [seconds / 60 for seconds in run.seconds()]
            times.plot(range(1, len(minutes) + 1), minutes, label=run.label, **_style(run))
        losses.set_title(f"Training loss (mean of {WINDOW} steps)", fontsize=9)
        times.set_title("Minutes of forward pass, backward pass and optimizer", fontsize=9)
        times.set_ylim(bottom=0)
        losses.legend(frameon=False)
        _draw_densities(densities, [run for run in runs if run.settings["engine"]] or runs)
        _draw_memory(memory, [run for run in runs if run.end])
        for axes in (losses, times, densities):
            axes.set_xlabel("step")
        figure.suptitle(_about(runs[0]), fontsize=8, color="#555555", parse_math=False)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    write_atomic(path, content.getvalue())


def _style(run: Record) -> dict[str, Any]:
    """Torch's lines are broad and pale: ours, which lie on them, can be seen."""
    engine = run.settings["engine"]
    look = {"linewidth": 1.2} if engine else {"linewidth": 4, "alpha": 0.35}
    return {"color": _colour(run), "zorder": 3 if engine else 2, **look}


def _colour(run: Record) -> str:
    return COLOURS[bool(run.settings["penalty"])]


def _draw_densities(axes: Any, runs: list[Record]) -> None:
    for run in runs:
        steps, shares = zip(*run.densities()[::SPARSE], strict=True)
        layers = len(shares[0])
        for layer in range(layers):
            label = run.label if layer == layers - 1 else None
            line = [100 * share[layer] for share in shares]
            shade = {"color": _colour(run), "alpha": 0.3 + 0.7 * (layer + 1) / layers}
            axes.plot(steps, line, linewidth=1.2, label=label, **shade)
    axes.set_yscale("log")
    ticks = [1, 2, 5, 10, 20, 50]
    axes.set_yticks(ticks, [f"{tick} %" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title("Active neurons, by layer (the last is the darkest)", fontsize=9)
    axes.legend(frameon=False)


def _draw_memory(axes: Any, runs: list[Record]) -> None:
    names = [run.label for run in runs]
    bars = axes.barh(names, [run.end["peak_memory"] / 2**20 for run in runs])
    for bar, run in zip(bars, runs, strict=True):
        bar.set(color=_colour(run), alpha=1 if run.settings["engine"] else 0.35)
    axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    before = [run.header["memory"] / 2**20 for run in runs]
    axes.barh(names, before, color="none", edgecolor="white", hatch="///", linewidth=0)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title("Peak memory, MiB (hatched: before the first step)", fontsize=9)


def _about(run: Record) -> str:
    of = run.settings
    shape, torch = of["shape"], run.header["versions"]["torch"]
    return (
        f"language model, {shape['layers']} layers, d_model {shape['d_model']}, d_ff "
        f"{shape['d_ff']}, {of['batch']} x {of['length']} tokens a step; {run.header['machine']}, "
        f"{of['threads']} threads, torch {torch}"
    )
