"""Where the ways cross: measured here, written to `ways.json`, read by every engine.

    python -m reluctant.bench.crossings            measure, and show the grid
    python -m reluctant.bench.crossings --write    and write src/reluctant/ways.json

Each cell is a shape, a number of tokens and a density. Its layers take turns, as in a model, so
that their weights have left the nearer caches.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import reluctant
from reluctant import ways
from reluctant.bench import layer as drawn
from reluctant.engine import Engine
from reluctant.files import write_json
from reluctant.kernels import screened
from reluctant.kernels.team import ALONE
from reluctant.machine import cpu_model, versions
from reluctant.prepared import prepare
from reluctant.timing import interleaved
from reluctant.ways import NEVER_ABOVE, Limits

SHAPES = ((256, 1024), (512, 2048), (1024, 4096), (2048, 8192))
TOKENS = (1, 2, 4, 8, 16, 64, 512)
DENSITIES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_LEAST = 1e-9  # a limit that every call is above
FORCED = {
    "few": Limits(NEVER_ABOVE, 0, 0),
    "screen": Limits(0, NEVER_ABOVE, 0),
    "many": Limits(0, 0, NEVER_ABOVE),
    "dense": Limits(0, 0, 0),
    "few in vain": Limits(_LEAST, 0, 0),
    "screen in vain": Limits(0, _LEAST, 0),
    "many in vain": Limits(0, 0, _LEAST),
}
WAYS = ("few", "screen", "many", "dense")
BEARABLE = 1.15  # a call may take so much longer than the best way would
FEW_TOKENS = 16
ROTATED_BYTES = 2**28  # the layers of a cell together: more than the caches of two cores


@dataclass(frozen=True)
class Cell:
    """One measured cell.

    candidates, screened: the share of candidates that 16 bits of x leave (few tokens), and 8
    (many). seconds: by way ("... in vain": a try that gives up, then the dense way), and "auto" as
    the limits in use choose.
    """

    dtype: str
    weights: int
    tokens: int
    density: float
    candidates: float
    screened: float
    seconds: dict[str, float]

    @property
    def best(self) -> float:
        """The best way's seconds."""
        return min(self.seconds[way] for way in WAYS if way in self.seconds)

    @property
    def regret(self) -> float:
        """The automatic choice's time over the best way's."""
        return self.seconds["auto"] / self.best


def measure(dtypes: list[str], rounds: int) -> Iterator[Cell]:
    """All cells, one by one."""
    grid = [(dtype, shape) for dtype in dtypes for shape in SHAPES]
    for dtype, (d_model, d_ff) in track(grid, console=Console(stderr=True), transient=True):
        generator = torch.Generator().manual_seed(0)
        layer = drawn.draw(d_model, d_ff, 0.04, generator, dtype=DTYPES[dtype])
        layer.requires_grad_(requires_grad=False)
        count = min(max(ROTATED_BYTES // drawn.weight_bytes(layer), 2), 12)
        layers = drawn.copies(layer, count)
        engines = [Engine(each.up, each.down, each.activation) for each in layers]
        for engine in engines:
            engine.census(torch.randn(1, d_model).to(DTYPES[dtype]))  # makes the sketch
        for tokens in TOKENS:
            inputs = [
                torch.randn(tokens, d_model, generator=generator).to(DTYPES[dtype])
                for _ in range(8)
            ]
            for density in DENSITIES:
                for each in layers:
                    each.up.bias.fill_(NormalDist().inv_cdf(density))
                yield _cell(dtype, engines, inputs, density, rounds)


def _cell(
    dtype: str, engines: list[Engine], inputs: list[torch.Tensor], density: float, rounds: int
) -> Cell:
    tokens, size = inputs[0].shape[0], engines[0].neurons.keys.numel()
    d_ff = engines[0].neurons.d_ff
    forced: dict[str, Limits | None] = {
        way: limits
        for way, limits in FORCED.items()
        if not (way.startswith("few") and tokens > FEW_TOKENS)
        and not (way.startswith(("screen", "many")) and dtype != "float32")
    }

    def caller(limits: Limits | None) -> Callable[[int], object]:
        def call(number: int) -> object:
            engine = engines[number % len(engines)]
            engine.forced = limits
            return engine(inputs[number % len(inputs)])

        return call

    calls = {way: caller(limits) for way, limits in (forced | {"auto": None}).items()}
    # A whole cycle first: else a way that follows one that reads little finds its layers in cache.
    timed = partial(interleaved, calls, settle=0.004, turn=0.012, cycle=len(engines))
    with torch.inference_mode():
        seconds = timed(rounds=rounds)
        if seconds["auto"] > BEARABLE * min(seconds.values()):  # chance, or not? A longer look
            seconds = timed(rounds=5 * rounds)
        counted = engines[0].census(torch.cat(inputs)[:64])
    candidates = counted.candidates / (counted.tokens * d_ff)
    left = _screened(engines[0], torch.cat(inputs)[:64]) if dtype == "float32" else 0.0
    return Cell(dtype, size, tokens, density, candidates, left, seconds)


def _screened(engine: Engine, x: torch.Tensor) -> float:
    """The share of candidates that x in bytes leaves."""
    ready = prepare(engine.neurons, engine.activation, None, with_sketch=True)
    totals, out = np.zeros(2, np.int64), np.empty(x.shape, np.float32)
    if not ready.screened:
        return 0.0
    rest = NEVER_ABOVE, False, 0, out, totals, ALONE
    screened.run(x.numpy(), *ready.screened, *rest)
    return float(totals[1]) / (x.shape[0] * engine.neurons.d_ff)


def limits_of(cells: list[Cell]) -> Limits:
    """The limits for one dtype, size and number of tokens, from its cells in rising density.

    Of all limits between the cells' shares those with the least regret, squared: bad cells count
    most. A way that gives up costs what it cost to try.

    >>> others = {"dense": 2.0, "few in vain": 2.1}
    >>> cells = [
    ...     Cell("float32", 1, 1, p, p, p, others | {"few": seconds})
    ...     for p, seconds in ((0.1, 1.0), (0.2, 1.5), (0.3, 2.5))
    ... ]
    >>> limits_of(cells)
    Limits(few=0.25, screen=0.0, many=0.0)

    Where a try in vain costs more than the others gain, there is none:

    >>> for cell in cells:
    ...     cell.seconds["few in vain"] = 9.0
    >>> limits_of(cells)
    Limits(few=0.39, screen=0.0, many=0.0)
    >>> cells[2].seconds["few"] = 9.0
    >>> limits_of(cells)
    Limits(few=0.0, screen=0.0, many=0.0)
    """
    shares = {
        "few": [c.candidates for c in cells],
        "screen": [c.screened for c in cells],
        "many": [c.density for c in cells],
    }
    offered = [_between(s) if way in cells[0].seconds else [0.0] for way, s in shares.items()]

    def regret(limits: Limits) -> float:
        return sum((_expected(c, limits) / c.best - 1) ** 2 for c in cells)

    return min((Limits(*found) for found in product(*offered)), key=regret)


def _between(shares: list[float]) -> list[float]:
    """Limits that tell one cell from the next, and those that none or all pass."""
    halfway = [round((one + other) / 2, 3) for one, other in pairwise(shares)]
    above = NEVER_ABOVE if shares[-1] > 0.5 else round(1.3 * shares[-1], 3)
    return [0.0, *halfway, above]


def _expected(cell: Cell, limits: Limits) -> float:
    """Seconds of a call under these limits: as `Engine.forward` chooses."""
    spent, t = 0.0, cell.seconds
    if limits.few:
        if cell.candidates <= limits.few:
            return t["few"]
        spent += t["few in vain"] - t["dense"]
    if limits.screen > limits.few:
        if cell.screened <= limits.screen:
            return spent + t["screen"]
        spent += t["screen in vain"] - t["dense"]
    if limits.many:
        return spent + t["many" if cell.density <= limits.many else "many in vain"]
    return spent + t["dense"]


def _grouped(cells: list[Cell]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """What stands in `ways.json` as "limits"."""
    table: dict[str, dict[str, dict[str, list[float]]]] = {}
    for dtype, size, tokens in dict.fromkeys((c.dtype, c.weights, c.tokens) for c in cells):
        mine = [c for c in cells if (c.dtype, c.weights, c.tokens) == (dtype, size, tokens)]
        by_tokens = table.setdefault(dtype, {}).setdefault(str(size), {})
        by_tokens[str(tokens)] = list(limits_of(mine))
    return table


def show(cells: list[Cell], console: Console) -> None:
    """The grid: times in microseconds, the fastest way, and the automatic choice against it."""
    table = Table(title="Microseconds a call")
    names = (*WAYS, "auto")
    for column in ("dtype", "W1", "tokens", "density", "candidates", *names, "auto / best"):
        table.add_column(column, justify="right")
    for c in cells:
        times = [
            "-" if w not in c.seconds else f"{'*' if t == c.best else ''}{1e6 * t:.0f}"
            for w in names
            for t in [c.seconds.get(w, 0.0)]
        ]
        shares = f"{c.density:.0%}", f"{c.candidates:.1%}"
        table.add_row(c.dtype, str(c.weights), str(c.tokens), *shares, *times, f"{c.regret:.2f}")
    console.print(table)
    worst = max(cells, key=lambda c: c.regret)
    console.print(
        f"auto at most {worst.regret:.2f}x the best way ({worst.weights} weights, "
        f"{worst.tokens} tokens, {worst.density:.0%}); above {BEARABLE}x in "
        f"{sum(c.regret > BEARABLE for c in cells)} of {len(cells)} cells"
    )


def main(
    write: Annotated[bool, typer.Option(help="Write src/reluctant/ways.json.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each way in each cell.")] = 3,
    dtype: Annotated[list[str] | None, typer.Option(help="float32, bfloat16; all.")] = None,
) -> None:
    """Measure where the ways cross."""
    cells = list(measure(dtype or list(DTYPES), rounds))
    show(cells, Console(width=130))
    if write:
        limits: dict[str, Any] = ways.table()["limits"] | _grouped(cells)
        path = Path(reluctant.__file__).with_name("ways.json")
        measured = {"machine": cpu_model(), "threads": torch.get_num_threads()}
        write_json(path, measured | {"versions": versions("torch", "numba"), "limits": limits})
        typer.echo(json.dumps(limits, indent=1))


if __name__ == "__main__":
    typer.run(main)
