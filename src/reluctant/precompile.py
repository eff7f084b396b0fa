"""All kernels compiled beforehand, so that no first call has to wait: for images of containers.

Numba compiles a function for the kinds of its arguments. Small layers of every kind that an engine
serves, called in every way, ask for all of them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from reluctant.activations import resolve
from reluctant.attention import attention
from reluctant.engine import Engine
from reluctant.errors import ReluctantError
from reluctant.feedforward import FeedForward
from reluctant.kernels import sums
from reluctant.kernels.entry import run_at
from reluctant.kernels.team import team_of
from reluctant.linear import few_rows
from reluctant.narrow import Narrow
from reluctant.program import Program, most_probable, weights_of
from reluctant.projection import Projection
from reluctant.sketch import SERVED
from reluctant.training import DTYPES, Call, Weights, feed_forward
from reluctant.ways import NEVER_ABOVE, Limits
from reluctant.weights import Neurons

D_MODEL, D_FF = 32, 64
STEPS = [(dtype, gated) for dtype in DTYPES for gated in (False, True)]
FORCED = {  # the way, the tokens that show it, and limits that leave no other
    "few tokens": (1, Limits(NEVER_ABOVE, 0, 0)),
    "many tokens, screened": (20, Limits(0, NEVER_ABOVE, 0)),
    "many tokens": (20, Limits(0, 0, NEVER_ABOVE)),
}


class Kind(NamedTuple):
    """A kind of layer, and a way to call it. read: what float32 weights are read as."""

    dtype: torch.dtype
    gated: bool
    normed: bool
    way: str
    read: torch.dtype | None = None

    def __str__(self) -> str:
        extras = ", gated" * self.gated + ", normed" * self.normed
        extras += "" if self.read is None else f" read as {_name(self.read)}"
        return f"{_name(self.dtype)}{extras}: {self.way}"


def kinds() -> list[Kind]:
    """All that there are.

    >>> str(kinds()[0])
    'float32: few tokens'
    """
    layers = [(False, False), (True, False), (False, True)]
    few, screened, _ = FORCED
    return [
        *(Kind(torch.float32, False, False, way) for way in FORCED),
        Kind(torch.float32, True, False, screened),
        *(Kind(torch.float32, *layer, few) for layer in layers[1:]),
        *(Kind(torch.bfloat16, *layer, few) for layer in layers),
        *(Kind(torch.float16, *layer, few) for layer in layers[:2] if torch.float16 in SERVED),
        *(Kind(torch.float32, False, False, way, read) for read in SERVED[1:] for way in FORCED),
    ]


def names() -> list[str]:
    """What `compile_all` compiles, in order."""
    return [*map(str, kinds()), *map(_maps, SERVED), *(_steps(*each) for each in STEPS)]


def _maps(dtype: torch.dtype) -> str:
    return f"{_name(dtype)}: output projection, linear maps, attention, programs"


def _steps(dtype: torch.dtype, gated: bool) -> str:
    return f"{_name(dtype)}{', gated' * gated}: training"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@torch.no_grad()
def compile_one(kind: Kind) -> str:
    """Compile what a layer of this kind needs, or load it from where it is kept.

    Gives the way that the layer then went: "dense" where the processor has no other.
    """
    up, down = nn.Linear(D_MODEL, D_FF), nn.Linear(D_FF, D_MODEL)
    if kind.read is not None:
        up, down = up.to(kind.read), down.to(kind.read)
    engine = Engine(
        up.to(kind.dtype),
        down.to(kind.dtype),
        resolve("relu"),
        gate=nn.Linear(D_MODEL, D_FF).to(kind.dtype) if kind.gated else None,
        norm=nn.RMSNorm(D_FF, eps=1e-5).to(kind.dtype) if kind.normed else None,
        narrow=kind.read is not None,
    )
    tokens, engine.forced = FORCED[kind.way]
    engine(torch.zeros(tokens, D_MODEL, dtype=kind.dtype))
    return max(engine.calls, key=lambda way: engine.calls[way])


@torch.no_grad()
def compile_maps(dtype: torch.dtype) -> None:
    """The same for output projections, for linear maps of few rows, with weights of this dtype and
    numbers of it or of float32, for attention, and for programs."""
    linear = nn.Linear(D_MODEL, D_FF).to(dtype)
    projection, x = Projection(linear), torch.ones(1, D_MODEL, dtype=dtype)
    low, up = projection.bounds(x)
    ids = torch.arange(3)
    projection.some(x, 0, ids, low[0, ids], up[0, ids])
    projection.all(x)
    few_rows(x.float(), linear.weight, None)
    attention(*(x.view(1, 1, 1, -1) for _ in range(3)))
    if dtype is torch.float32:
        projection.likeliest(x, None, 3)
    floats, y = nn.Linear(D_MODEL, D_FF).to(dtype).float(), torch.empty(1, D_FF)
    weights = weights_of(floats, Narrow(floats))
    program = Program(weights.read)
    program.maps(x.float(), [weights], [y])
    program.run()
    most_probable(y, 3, None, counts=True)


def compile_step(dtype: torch.dtype, *, gated: bool) -> None:
    """The same for training steps: with a dense first product, and with a sketch."""
    layer = FeedForward(D_MODEL, D_FF, "reglu" if gated else "relu", dtype=dtype)
    up, down, gate = layer.up, layer.down, layer.gate
    weights = Weights(*Neurons(up, down, gate).tensors())
    x = torch.randn(20, D_MODEL, dtype=dtype, requires_grad=True)
    for screen in (0.0, NEVER_ABOVE) if dtype is torch.float32 and sums.BYTES else (0.0,):
        call = Call(layer.activation, NEVER_ABOVE, screen)
        with torch.enable_grad():
            feed_forward(x, weights, call)[0].sum().backward()  # type: ignore[no-untyped-call]


def compile_all(on_kind: Callable[[str], object] = lambda kind: None) -> Path:
    """Compile all kernels for this processor, and say where the code is kept.

    on_kind: is told what comes next.

    Raises:
        ReluctantError: it can be kept nowhere.
    """
    place = run_at.stats.cache_path
    if place is None:
        raise ReluctantError(
            "expected a folder for compiled code that can be written to, found none: set "
            "NUMBA_CACHE_DIR to one, here and where the code is to be used"
        )
    for kind in kinds():
        on_kind(str(kind))
        compile_one(kind)
    for dtype in SERVED:
        on_kind(_maps(dtype))
        compile_maps(dtype)
    for kind_of_step in STEPS:
        on_kind(_steps(*kind_of_step))
        compile_step(kind_of_step[0], gated=kind_of_step[1])
    team_of(2)  # these layers are too small to be shared among threads
    return Path(place)
