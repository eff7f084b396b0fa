"""Which cells are measured: the default selection, the whole grid, and what a user picks."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product

from reluctant.errors import ReluctantError

PHASES = {"decode": (1,), "few": (2, 4, 8, 16), "many": (64, 512, 2048)}
TYPICAL = {"decode": (1,), "few": (8,), "many": (512,)}
STATES = ("cold", "warm")
DTYPES = ("float32", "bfloat16")
DENSITIES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
DENSITY = 0.04


@dataclass(frozen=True)
class Shape:
    """The sizes of a layer; written 1024/4096, a gated one 1024/2816g."""

    d_model: int
    d_ff: int
    gated: bool = False

    def __str__(self) -> str:
        return f"{self.d_model}/{self.d_ff}{'g' if self.gated else ''}"

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """
        >>> Shape.parse("1024/2816g")
        Shape(d_model=1024, d_ff=2816, gated=True)
        """
        match = re.fullmatch(r"([1-9]\d{0,6})/([1-9]\d{0,6})(g?)", text.strip())
        if match is None:
            raise ReluctantError(
                f"expected a shape like 1024/4096 (d_model/d_ff) or 1024/2816g (gated); "
                f"got {text!r}"
            )
        return cls(int(match[1]), int(match[2]), match[3] == "g")


SHAPES = (
    Shape(256, 1024),
    Shape(512, 2048),
    Shape(1024, 4096),
    Shape(2048, 8192),
    Shape(4096, 16384),
    Shape(1024, 2816, gated=True),
)


@dataclass(frozen=True)
class Cell:
    """One measurement, or two: rotating over the layers of a model (cold), and on one (warm).

    Attributes:
        phase: of `PHASES`.
        tokens: rows of x.
        shape: of the layer.
        dtype: of `DTYPES`.
        density: share of active neurons of the layers that are drawn; None: real layers.
        activation: "relu" or "gelu".
        states: of `STATES`.
    """

    phase: str
    tokens: int
    shape: Shape
    dtype: str = "float32"
    density: float | None = DENSITY
    activation: str = "relu"
    states: tuple[str, ...] = STATES

    def __str__(self) -> str:
        kind = "real" if self.density is None else f"{self.density:.0%}"
        return f"{self.phase} {self.tokens} x {self.shape} {self.dtype} {self.activation} {kind}"


REAL_SHAPE = Shape(256, 1024)  # of ruaccent-predictor's layers


def real(states: tuple[str, ...] = ("cold",)) -> list[Cell]:
    """The layers of a trained model; a sentence of it has 256 positions."""
    sizes = (("decode", 1), ("few", 8), ("many", 256))
    return [Cell(phase, n, REAL_SHAPE, density=None, states=states) for phase, n in sizes]


def usual() -> list[Cell]:
    """What `reluctant bench` measures: the layers of docs/figures.md."""
    tiny, small, middle, large, huge, gated = SHAPES
    cold, warm = (("cold",), ("warm",))
    return [
        *(Cell("decode", 1, shape) for shape in (small, middle, gated)),
        *(Cell("decode", 1, shape, states=cold) for shape in (large, huge)),
        Cell("decode", 1, tiny, states=warm),
        *(Cell("decode", 1, shape, "bfloat16", states=cold) for shape in (large, huge)),
        *(Cell("few", 8, shape, states=cold) for shape in (small, middle)),
        *(Cell("many", 512, shape, states=cold) for shape in (small, middle)),
        *(Cell("many", 512, s, activation="gelu", states=cold) for s in (small, middle)),
        *real(),
    ]


def quick() -> list[Cell]:
    """A look at each phase, in little more than a minute."""
    small, middle = SHAPES[1:3]
    cold = ("cold",)
    return [
        Cell("decode", 1, middle),
        Cell("few", 8, middle, states=cold),
        Cell("many", 512, small, states=cold),
        Cell("many", 512, small, activation="gelu", states=cold),
    ]


# Where the picture comes from: density changes in one layer, d_ff at a fixed number of active ones.
SWEEP_SHAPE = Shape(1024, 4096)
SWEEP_SIZES = (1024, 2048, 4096, 8192, 16384)
SWEEP_ACTIVE = 128
SWEEP_PEERS = ("oneDNN", "ONNX Runtime", "OpenVINO")  # the best of the exact ones, built quickly


def sweep() -> list[Cell]:
    """What `--plot` needs."""
    sizes = [(phase, n) for phase, typical in TYPICAL.items() for n in typical]
    return [
        *(
            Cell(phase, n, SWEEP_SHAPE, density=density, states=("cold",))
            for (phase, n), density in product(sizes, DENSITIES)
        ),
        *(
            Cell("decode", 1, Shape(1024, d_ff), density=SWEEP_ACTIVE / d_ff, states=("cold",))
            for d_ff in SWEEP_SIZES
        ),
    ]


def full() -> list[Cell]:
    """The whole grid: hours."""
    drawn = choose(tokens=tuple(n for sizes in PHASES.values() for n in sizes),
                   dtypes=DTYPES, densities=DENSITIES)  # fmt: skip
    dense = [
        Cell("many", n, shape, dtype, activation="gelu")
        for n, shape, dtype in product(PHASES["many"], SHAPES[:-1], DTYPES)
    ]
    return [*drawn, *dense, *real(STATES)]


def choose(
    *,
    phases: Sequence[str] = (),
    shapes: Sequence[Shape] = (),
    dtypes: Sequence[str] = (),
    densities: Sequence[float] = (),
    tokens: Sequence[int] = (),
    states: Sequence[str] = (),
    activation: str = "relu",
) -> list[Cell]:
    """Every combination of what was picked; what was not picked: all phases with their typical
    tokens, all shapes, float32, 4 %, cold and warm.

    Raises:
        ReluctantError: one of them is not what there is.

    >>> [str(cell) for cell in choose(tokens=[3], shapes=[Shape(32, 64)])]
    ['few 3 x 32/64 float32 relu 4%']
    """
    _known("phases", phases, PHASES)
    _known("states", states, STATES)
    _known("an activation", [activation], ("relu", "gelu"))
    check(dtypes, densities, tokens)
    sizes = tokens or [n for phase in phases or TYPICAL for n in TYPICAL[phase]]
    return [
        Cell(phase_of(n), n, shape, dtype, density, activation, tuple(states) or STATES)
        for n, dtype, shape, density in product(
            [n for n in sizes if not phases or phase_of(n) in phases],
            dtypes or DTYPES[:1],
            shapes or SHAPES,
            densities or [DENSITY],
        )
    ]


def check(dtypes: Sequence[str], densities: Sequence[float], tokens: Sequence[int]) -> None:
    """Raises ReluctantError for a dtype that is not measured, and for numbers out of range."""
    _known("dtypes", dtypes, DTYPES)
    for n in tokens:
        if not 1 <= n <= 2**16:
            raise ReluctantError(f"expected tokens from 1 to 65536, got {n}")
    for density in densities:
        if not 0 < density < 1:
            raise ReluctantError(
                f"expected densities strictly between 0 and 1 (0 % and 100 %), got {density}"
            )


def phase_of(tokens: int) -> str:
    """
    >>> [phase_of(n) for n in (1, 2, 16, 17)]
    ['decode', 'few', 'few', 'many']
    """
    if tokens == 1:
        return "decode"
    return "few" if tokens <= PHASES["few"][-1] else "many"


def _known(what: str, chosen: Sequence[str], all_of_them: Collection[str]) -> None:
    for one in chosen:
        if one not in all_of_them:
            raise ReluctantError(f"expected {what} of {', '.join(all_of_them)}; got {one!r}")
