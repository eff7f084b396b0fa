"""What an exact sparse engine has to read and to compute of a layer, and how long it takes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reluctant.lab.watch import Watch
from reluctant.timing import interleaved

ROUNDS = 7


@dataclass(frozen=True)
class Candidates:
    """Of a sample of tokens: shares of d_ff.

    mean: neurons that the sketch does not certify to be zero. slack: those of them that are zero
    all the same. tokens: of the sample.
    """

    mean: float
    slack: float
    tokens: int


def candidates_of(watch: Watch, rows: Tensor) -> Candidates | None:
    """What the layer's certificate says of rows (n, d_model); None if no sketch serves it."""
    if not watch.engine.sparse or not watch.exact_zeros or not len(rows):
        return None
    census = watch.engine.census(rows)
    count = census.tokens * len(watch.keys)
    slack = (census.candidates - census.active) / count
    return Candidates(census.candidates / count, slack, census.tokens)


@dataclass(frozen=True)
class Computed:
    """One token's, as shares of what the dense layer reads and computes in floating point.

    The engine reads a byte for each weight that feeds the activation, then the rows of candidates,
    then those of active neurons. What it computes in bytes is not counted.
    """

    bytes_share: float
    flops_share: float


def computed(watch: Watch, density: float, candidates: float | None) -> Computed:
    """density, candidates: shares of d_ff; None: the layer is computed densely.

    >>> from reluctant.activations import resolve
    >>> from reluctant.engine import Engine
    >>> up, down = torch.nn.Linear(64, 256), torch.nn.Linear(256, 64)
    >>> computed(Watch("", Engine(up, down, resolve("relu"))), 0.25, 0.5)
    Computed(bytes_share=0.5, flops_share=0.375)
    """
    if candidates is None:
        return Computed(1.0, 1.0)
    size, others = watch.keys.itemsize, 1 if watch.engine.neurons.gate is None else 2
    read = 1 + size * (candidates + others * density)
    done = candidates + others * density
    return Computed(read / (size * (1 + others)), done / (1 + others))


@dataclass(frozen=True)
class Measured:
    """Median times of one call on `tokens` tokens of the text, in milliseconds."""

    torch_ms: float
    engine_ms: float
    tokens: int


def measured(watch: Watch, rows: Tensor, tokens: int, *, turn: float = 0.01) -> Measured | None:
    """Time the layer in plain torch and by its engine, in turns, on real rows (n, d_model).

    tokens: of one call. turn: seconds of each way in each of 7 rounds. The layer's weights may
    stay in the processor's caches, for both.
    """
    if not len(rows):
        return None
    engine, tokens = watch.engine, min(tokens, len(rows))
    pieces = [rows[at : at + tokens] for at in range(0, len(rows) - tokens + 1, tokens)]

    def by_torch(number: int) -> Tensor:
        return watch.compute(pieces[number % len(pieces)]).y

    def by_engine(number: int) -> Tensor:
        return engine(pieces[number % len(pieces)])

    before, engine.way = engine.way, "auto"
    try:
        with torch.no_grad():
            ways = {"torch": by_torch, "engine": by_engine}
            seconds = interleaved(ways, rounds=ROUNDS, settle=turn, turn=turn)
    finally:
        engine.way = before
    return Measured(seconds["torch"] * 1e3, seconds["engine"] * 1e3, tokens)
