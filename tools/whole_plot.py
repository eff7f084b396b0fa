"""The second picture of docs/figures.md: tokens/s of a model, and what its projection's share is.

reluctant bench --whole --model build/gemma --dtypes bfloat16 --peers none --json whole.json
python -m tools.whole_plot whole.json docs/whole.svg
"""

import io
import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reluctant.bench.plot import STYLE
from reluctant.files import write_atomic

# Rows and columns of the output projection, and all weights, in millions: of the published configs.
SHARES = {
    "Gemma 3 270M": (262_144, 640, 268),
    "Gemma 3 1B": (262_144, 1152, 1000),
    "Qwen3 0.6B": (151_936, 1024, 596),
    "Llama 3.2 1B": (128_256, 2048, 1236),
    "OPT 1.3B": (50_272, 2048, 1316),
    "Llama 3.1 8B": (128_256, 4096, 8030),
}
OURS, THEIRS = "#0072b2", "#999999"


def share(model: str) -> float:
    """The projection's part of the weights that a token reads.

    >>> [round(100 * share(model)) for model in SHARES]
    [63, 30, 26, 21, 8, 7]
    """
    rows, columns, millions = SHARES[model]
    return rows * columns / millions / 1e6


def draw(written: dict[str, Any], path: Path) -> None:
    """Both panels. written: what `reluctant bench --whole --json` wrote, of one model."""
    (model,) = written["models"]
    lines = [line for line in model["lines"] if "batch" not in line["name"]]
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        names = [line["name"] for line in lines]
        speeds = [line["tokens_per_second"] for line in lines]
        colours = [OURS if name.startswith("reluctant") else THEIRS for name in names]
        bars = left.barh(names, speeds, color=colours)
        same = [f"{line['equal']} of {model['tokens']}" for line in lines]
        labels = [f"{speed:.1f}  ({text})" for speed, text in zip(speeds, same, strict=True)]
        left.bar_label(bars, labels, padding=3, fontsize=8)
        left.set_xlim(0, max(speeds) * 1.45)
        left.invert_yaxis()
        left.set_xlabel("tokens/s (tokens that float64 gives)")
        left.set_title(f"{Path(model['name']).name}: greedy, one sentence", fontsize=9)
        bars = right.barh(list(SHARES), [100 * share(each) for each in SHARES], color=OURS)
        right.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=8)
        right.invert_yaxis()
        right.set_xlim(0, 75)
        right.set_xlabel("% of the weights that are the output projection's")
        right.set_title("what there is to be left out", fontsize=9)
        figure.suptitle(written["machine"], fontsize=8, color="#555555", parse_math=False)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    write_atomic(path, content.getvalue())


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
