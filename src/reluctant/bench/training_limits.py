"""Up to which density a training step over active neurons is the fastest, on this machine."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import torch

from reluctant import training
from reluctant.bench import layer as drawn
from reluctant.tables import DTYPES, SMALLEST_STEP
from reluctant.timing import interleaved
from reluctant.ways import NEVER_ABOVE

SHAPE = (512, 2048)
DENSITIES = (0.02, 0.04, 0.08, 0.16, 0.24, 0.32, 0.4, 0.48)
GAIN = 1.02  # times the others' speed from which on it is the fastest
_CALM = 2**27  # tokens times weights from which a call is so long that its start does not matter


def measure(
    tokens: Sequence[int],
    *,
    rounds: int = 3,
    shape: tuple[int, int] = SHAPE,
    densities: Sequence[float] = DENSITIES,
    on_cell: Callable[[str], object] = lambda what: None,
) -> dict[str, dict[str, float]]:
    """dtype -> tokens -> limit, as it stands in a table. on_cell: is told of each beforehand.

    Fewer tokens than a step needs to be worth it have the limit 0, whatever was measured.
    """
    found: dict[str, dict[str, float]] = {}
    for dtype in DTYPES:
        found[dtype] = {str(SMALLEST_STEP - 1): 0.0}
        for count in tokens:
            on_cell(f"training, {dtype}, {count} tokens")
            seconds = _seconds(shape, getattr(torch, dtype), count, densities, rounds)
            found[dtype][str(count)] = limit_of(seconds)
    return found


def limit_of(seconds: dict[float, tuple[float, float]]) -> float:
    """Halfway between the last density at which ours is the faster and the first where it is not.

    seconds: density -> ours, the best of the others, in rising density. Not of all densities: of
    those by which a search halved them.

    >>> limit_of({0.1: (1.0, 3.0), 0.2: (2.0, 3.0), 0.4: (4.0, 3.0)})
    0.3
    >>> limit_of({0.1: (4.0, 3.0)})
    0.0
    """
    wins = [density for density, (ours, other) in seconds.items() if ours * GAIN <= other]
    first_lost = next((d for d in seconds if d not in wins), None)
    if first_lost is None:
        return max(seconds)
    before = [(one, other) for one, other in pairwise(seconds) if other == first_lost]
    return round(sum(before[0]) / 2, 3) if before else 0.0


def _seconds(
    shape: tuple[int, int],
    dtype: torch.dtype,
    tokens: int,
    densities: Sequence[float],
    rounds: int,
) -> dict[float, tuple[float, float]]:
    """density -> seconds of a step over active neurons, and of the better of the dense ones."""
    generator = torch.Generator().manual_seed(0)
    layer = drawn.draw(*shape, 0.04, generator, dtype=dtype).requires_grad_()
    x = torch.randn(tokens, shape[0], generator=generator).to(dtype).requires_grad_()
    dy = torch.randn(tokens, shape[0], generator=generator).to(dtype)
    up, down = layer.up, layer.down
    weights = training.Weights(up.weight, up.bias, down.weight, down.bias)

    def ours(limit: float) -> torch.Tensor:
        return training.feed_forward(x, weights, training.Call(layer.activation, limit))[0]

    def step(forward: Callable[[], torch.Tensor], _: int) -> None:
        for leaf in (x, *layer.parameters()):
            leaf.grad = None
        forward().backward(dy)  # type: ignore[no-untyped-call]

    forwards: dict[str, Any] = {"ours": partial(ours, NEVER_ABOVE), "dense": partial(ours, 0.0)}
    calls = {name: partial(step, each) for name, each in forwards.items()}
    calls["torch"] = partial(step, lambda: layer(x))
    settle = None if tokens * shape[0] * shape[1] >= _CALM else 0.004
    found, low, high = {}, 0, len(densities)
    while low < high:  # halved: where 16-bit products are slow, a step takes seconds
        density = densities[(low + high) // 2]
        with torch.no_grad():
            layer.up.bias.fill_(NormalDist().inv_cdf(density))
        for each in calls.values():
            each(0)
        taken = interleaved(calls, rounds=rounds, settle=settle, turn=0.012)
        found[density] = taken["ours"], min(taken["dense"], taken["torch"])
        if found[density][0] * GAIN <= found[density][1]:
            low = (low + high) // 2 + 1
        else:
            high = (low + high) // 2
    return dict(sorted(found.items()))
