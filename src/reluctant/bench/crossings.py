"""Where the ways cross on this machine: every way timed on drawn layers.

Each cell is a shape, a number of tokens and a density. Its layers take turns, as in a model, so
that their weights have left the nearer caches.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import NormalDist

import numpy as np
import torch

from reluctant import tables
from reluctant.bench import layer as drawn
from reluctant.bench.fit import Cell
from reluctant.engine import Engine
from reluctant.kernels import integer, screened
from reluctant.kernels.team import ALONE
from reluctant.prepared import prepare
from reluctant.tables import FEW_TOKENS
from reluctant.timing import interleaved
from reluctant.ways import NEVER_ABOVE, Limits

DTYPES = {name: getattr(torch, name) for name in tables.DTYPES}
_LEAST = 1e-9  # a limit that every call is above
_FORCED = {
    "few": Limits(NEVER_ABOVE, 0, 0),
    "screen": Limits(0, NEVER_ABOVE, 0),
    "many": Limits(0, 0, NEVER_ABOVE),
    "dense": Limits(0, 0, 0),
    "few in vain": Limits(_LEAST, 0, 0),
    "screen in vain": Limits(0, _LEAST, 0),
    "many in vain": Limits(0, 0, _LEAST),
}
FALLBACK_TOKENS = 8  # below, nothing but the dense way ever was better than "few" where that fails
_DOUBTFUL = 1.15  # times the best way's seconds: where auto took longer, it is measured again
_ROTATED_BYTES = 2**28  # the layers of a cell together: more than the caches of two cores
_MOST_LAYERS = 12
_CALM = 2**27  # tokens times weights from which a call is so long that its start does not matter


@dataclass(frozen=True)
class Plan:
    """Which cells are measured, and how long.

    most: tokens times weights of the largest cell; what is larger is computed just as well by the
    limits of the next smaller size. rounds: turns of each way in each cell. training: tokens of the
    training steps that are measured; if none are, the shipped limits stay.
    """

    shapes: tuple[tuple[int, int], ...]
    tokens: tuple[int, ...]
    densities: tuple[float, ...]
    rounds: int = 3
    most: int = 2**31
    training: tuple[int, ...] = ()

    def groups(self) -> list[tuple[str, tuple[int, int], list[int]]]:
        """dtype, shape, and the tokens at which that dtype has a choice of ways."""
        return [
            (dtype, shape, [n for n in self.tokens if self._is_measured(dtype, shape, n)])
            for dtype, shape in product(DTYPES, self.shapes)
        ]

    def _is_measured(self, dtype: str, shape: tuple[int, int], tokens: int) -> bool:
        return tokens <= FEW_TOKENS or (
            dtype == "float32" and tokens * shape[0] * shape[1] <= self.most
        )

    def __len__(self) -> int:
        """How many cells there are; each dtype and size of a training step counts as one."""
        cells = len(self.densities) * sum(len(tokens) for _, _, tokens in self.groups())
        return cells + len(DTYPES) * len(self.training)


_SHAPES = ((256, 1024), (512, 2048), (1024, 4096), (2048, 8192))
FULL = Plan(
    _SHAPES,
    (1, 2, 4, 8, 16, 64, 512),
    (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.45),
    training=(16, 64, 256, 1024),
)
QUICK = Plan(_SHAPES[1:3], (1, 4, 16, 64), (0.02, 0.08, 0.32), rounds=2, training=(64, 512))


def measure(
    plan: Plan,
    *,
    on_cell: Callable[[str], object] = lambda what: None,
    with_auto: bool = False,
) -> Iterator[Cell]:
    """All cells, one by one. on_cell: is told of each before it is measured."""
    for dtype, (d_model, d_ff), counts in plan.groups():
        generator = torch.Generator().manual_seed(0)
        layer = drawn.draw(d_model, d_ff, 0.04, generator, dtype=DTYPES[dtype])
        layer.requires_grad_(requires_grad=False)
        count = min(max(_ROTATED_BYTES // drawn.weight_bytes(layer), 2), _MOST_LAYERS)
        layers = drawn.copies(layer, count)
        engines = [Engine(each.up, each.down, each.activation) for each in layers]
        for engine in engines:
            engine.census(torch.randn(1, d_model).to(DTYPES[dtype]))  # makes the sketch
        for tokens, density in product(counts, plan.densities):
            on_cell(f"{d_model}/{d_ff} {dtype}, {tokens} tokens")
            inputs = [
                torch.randn(tokens, d_model, generator=generator).to(DTYPES[dtype])
                for _ in range(8)
            ]
            for each in layers:
                each.up.bias.fill_(NormalDist().inv_cdf(density))
            yield _cell(dtype, engines, inputs, density, plan.rounds, with_auto)


def _offered(dtype: str, tokens: int) -> dict[str, Limits]:
    """The ways that are measured, by their limits; all have the dense one."""
    rivals = {
        "few": tokens <= FEW_TOKENS,
        "screen": dtype == "float32" and tokens >= FALLBACK_TOKENS and integer.available(),
        "many": dtype == "float32" and tokens >= FALLBACK_TOKENS,
        "dense": True,
    }
    return {name: limits for name, limits in _FORCED.items() if rivals[name.split()[0]]}


def _cell(
    dtype: str,
    engines: list[Engine],
    inputs: list[torch.Tensor],
    density: float,
    rounds: int,
    with_auto: bool,
) -> Cell:
    tokens, size = inputs[0].shape[0], engines[0].neurons.keys.numel()
    is_long = tokens * size >= _CALM

    def caller(limits: Limits | None) -> Callable[[int], object]:
        def call(number: int) -> object:
            engine = engines[number % len(engines)]
            engine.forced = limits
            return engine(inputs[number % len(inputs)])

        return call

    forced: dict[str, Limits | None] = {**_offered(dtype, tokens)}
    calls = {way: caller(limits) for way, limits in forced.items()}
    if with_auto:
        calls["auto"] = caller(None)
    # A whole cycle first: else a way that follows one that reads little finds its layers in cache.
    cycle = 1 if is_long else len(engines)
    timed = partial(interleaved, calls, settle=0.004, turn=0.012, cycle=cycle)
    with torch.inference_mode():
        seconds = timed(rounds=rounds)
        if with_auto and seconds["auto"] > _DOUBTFUL * min(seconds.values()):  # chance, or not?
            seconds = timed(rounds=5 * rounds)  # a longer look
        sample = torch.cat(inputs)[:64]
        counted = engines[0].census(sample)
    candidates = counted.candidates / (counted.tokens * engines[0].neurons.d_ff)
    left = _screened(engines[0], sample) if "screen" in calls else 0.0
    return Cell(dtype, size, tokens, density, candidates, left, seconds)


def _screened(engine: Engine, x: torch.Tensor) -> float:
    """The share of candidates that the screen leaves."""
    ready = prepare(engine.neurons, engine.activation, None, with_sketch=True)
    totals, out = np.zeros(2, np.int64), np.empty(x.shape, np.float32)
    if not ready.screened:
        return 0.0
    rest = NEVER_ABOVE, False, 0, out, totals, ALONE
    screened.run(x.numpy(), *ready.screened, *rest)
    return float(totals[1]) / (x.shape[0] * engine.neurons.d_ff)
