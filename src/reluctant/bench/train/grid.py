"""Which training steps are measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from reluctant.bench.grid import DTYPES, SHAPES, Shape, check
from reluctant.errors import ReluctantError

KINDS = {"layer": 1, "stack": 6}  # feed-forward layers, one after the other
TOKENS = (256, 1024)
DENSITIES = (0.01, 0.05, 0.2, 0.5)
SMALL, MIDDLE, LARGE = SHAPES[:3]

# To bound the time of the default run: more tokens for one layer of one shape only, and stacks
# with two densities, of the largest shape with the fewer tokens only.
MANY_TOKENS = 4096
STACK_DENSITIES = (0.05, 0.2)


@dataclass(frozen=True)
class Cell:
    """One measurement.

    kind: of `KINDS`: one feed-forward layer, or some with residuals and layer norms. tokens: rows
    of x. density: share of active neurons.
    """

    kind: str
    tokens: int
    shape: Shape
    dtype: str = "float32"
    density: float = 0.05

    def __str__(self) -> str:
        density = f"{self.density:.3g}" if self.density < 0.005 else f"{self.density:.0%}"
        return f"{self.kind} {self.tokens} x {self.shape} {self.dtype} {density}"

    @property
    def group(self) -> tuple[str, int, Shape, str]:
        """What cells have in common that differ in nothing but their density."""
        return self.kind, self.tokens, self.shape, self.dtype

    @property
    def products(self) -> int:
        """Multiplications of one product of W1's size, over all layers and tokens."""
        return KINDS[self.kind] * self.tokens * self.shape.d_model * self.shape.d_ff


def usual() -> list[Cell]:
    """What `reluctant bench --phases train` measures: some six minutes on two cores."""
    every = list(product(TOKENS, (SMALL, MIDDLE, LARGE)))
    layers = [*every, (MANY_TOKENS, MIDDLE)]
    stacks = [(n, shape) for n, shape in every if shape is not LARGE or n == TOKENS[0]]
    return [
        *(Cell("layer", n, shape, density=p) for (n, shape), p in product(layers, DENSITIES)),
        *(Cell("stack", n, shape, density=p) for (n, shape), p in product(stacks, STACK_DENSITIES)),
    ]


def quick() -> list[Cell]:
    """A look at both kinds, in less than a minute."""
    return [
        Cell(kind, n, MIDDLE, density=p)
        for (kind, n), p in product((("layer", TOKENS[1]), ("stack", TOKENS[0])), STACK_DENSITIES)
    ]


def choose(
    *,
    shapes: Sequence[Shape] = (),
    dtypes: Sequence[str] = (),
    densities: Sequence[float] = (),
    tokens: Sequence[int] = (),
) -> list[Cell]:
    """Every combination of what was picked, of both kinds; what was not picked: three shapes,
    float32, four densities, 256 and 1024 tokens.

    Raises:
        ReluctantError: one of them is not what there is.

    >>> [str(cell) for cell in choose(tokens=[64], shapes=[Shape(32, 64)], densities=[0.1])]
    ['layer 64 x 32/64 float32 10%', 'stack 64 x 32/64 float32 10%']
    """
    check(dtypes, densities, tokens)
    return [
        Cell(kind, n, shape, dtype, density)
        for kind, dtype, shape, n, density in product(
            KINDS,
            dtypes or DTYPES[:1],
            shapes or (SMALL, MIDDLE, LARGE),
            tokens or TOKENS,
            sorted(set(densities)) or DENSITIES,
        )
    ]


def alone(phases: Sequence[str]) -> bool:
    """Whether training steps are to be measured.

    Raises:
        ReluctantError: and something else as well.
    """
    if "train" in phases and set(phases) != {"train"}:
        others = ", ".join(name for name in phases if name != "train")
        raise ReluctantError(f"expected the phase train alone, got {others} as well: leave one out")
    return "train" in phases
