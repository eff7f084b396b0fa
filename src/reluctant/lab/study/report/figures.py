"""Figures over seeds: mean and spread, and when one is larger than another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reluctant.lab.study import store
from reluctant.lab.study.pieces import pieces
from reluctant.lab.study.plan import FULL, Plan

_NOTHING = 1e-12  # below it lies the rounding of float64


@dataclass(frozen=True)
class Figure:
    """A number of each seed, in the seeds' order."""

    values: tuple[float, ...]
    seeds: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """Of all seeds."""
        return sum(self.values) / len(self.values)

    @property
    def spread(self) -> float:
        """The largest less the smallest."""
        return max(self.values) - min(self.values)

    def cell(self) -> dict[str, Any]:
        """As a table has it."""
        spread = self.spread if self.spread > _NOTHING else 0.0
        numbers = {"mean": self.mean, "spread": spread, "values": list(self.values)}
        rounded: dict[str, Any] = store.rounded(numbers)
        return rounded

    def text(self, digits: int = 3) -> str:
        """Mean and spread, as a sentence has them.

        >>> Figure((1.0, 1.5)).text(2), Figure((0.1 + 0.2, 0.3)).text()
        ('1.25 (0.50)', '0.300 (0.000)')
        """
        spread = f" ({number(self.spread, digits)})" if len(self.values) > 1 else ""
        return number(self.mean, digits) + spread

    def only(self, seed: int) -> "Figure | None":
        """Of one of the seeds alone; None if it has no number."""
        found = dict(zip(self.seeds, self.values, strict=True)).get(seed)
        return None if found is None else Figure((found,), (seed,))

    def size(self) -> "Figure":
        """The same with the sign of its mean taken off: of a difference, how large it is."""
        return Figure(tuple(-x for x in self.values), self.seeds) if self.mean < 0 else self


def number(value: float, digits: int) -> str:
    """With so many digits after the point; what would be nothing but zeros, as a power of ten.

    What is left of two equal float64 numbers is 0.

    >>> number(0.1234, 2), number(0.00012, 2), number(0, 1), number(1e-16, 1)
    ('0.12', '1.2e-04', '0.0', '0.0')
    """
    tiny = _NOTHING < abs(value) < 0.5 * 10**-digits
    return f"{value:.1e}" if tiny else f"{value:.{digits}f}"


def less(a: Figure | None, b: Figure | None) -> Figure | None:
    """a - b seed by seed; None if one is missing, or is of other seeds.

    >>> less(Figure((3.0, 4.0)), Figure((1.0, 1.0))).values
    (2.0, 3.0)
    """
    if a is None or b is None or a.seeds != b.seeds or len(a.values) != len(b.values):
        return None
    return Figure(tuple(x - y for x, y in zip(a.values, b.values, strict=True)), a.seeds)


def sign(a: Figure | None, b: Figure | None) -> int | None:
    """1 or -1: a is above or below b: seed by seed, their difference has a mean that is larger than
    its spread. 0: it is not. None: there is no saying, for want of figures or of common seeds.

    Models of one seed learn from the same batches in the same order, so that much of what moves a
    figure from seed to seed moves both, and is not in their difference. Of three normal numbers
    without any effect the mean is larger than the spread in 8 of 100 cases.

    >>> sign(Figure((1.0, 1.1)), Figure((2.0, 2.2))), sign(Figure((1.0, 1.5)), Figure((1.2, 1.4)))
    (-1, 0)
    """
    difference = less(a, b)
    if difference is None or len(difference.values) < 2:
        return None
    if abs(difference.mean) <= max(difference.spread, _NOTHING):
        return 0
    return 1 if difference.mean > 0 else -1


class Results:
    """The results in a folder.

    plan: theirs; the full study's if there are none. Errors: as `store.read`.
    """

    def __init__(self, folder: Path) -> None:
        self.all = store.read(folder)
        self.plan: Plan = store.plan_of(self.all[0]) if self.all else FULL

    def figure(self, name: str, of: Callable[[Any], float | None]) -> Figure | None:
        """A number of each seed's result of this name; None if one or all are missing."""
        found = {seed: of(result) for seed, result in self.by_seed(name).items()}
        numbers = {seed: float(value) for seed, value in found.items() if value is not None}
        if not numbers or len(numbers) < len(found):
            return None
        return Figure(tuple(numbers.values()), tuple(numbers))

    def loss(self, name: str) -> Figure | None:
        """The validation loss of a model at the end of its training."""
        return self.figure(name, lambda result: result["loss"])

    def by_seed(self, name: str) -> dict[int, dict[str, Any]]:
        """The results of this name."""
        return {e.piece.seed: e.result for e in self.all if e.piece.name == name}

    def any(self, name: str) -> dict[str, Any] | None:
        """The first of the results of this name, for what is the same in all of them."""
        return next(iter(self.by_seed(name).values()), None)

    def done(self, *groups: str) -> tuple[int, int]:
        """How many pieces of these groups are there, of how many."""
        wanted = pieces(self.plan, groups)
        there = {each.piece for each in self.all}
        return sum(piece in there for piece in wanted), len(wanted)

    def diverged(self, *groups: str) -> list[str]:
        """The models of these groups whose training ended with a loss that was not finite."""
        wanted = set(pieces(self.plan, groups))
        return [
            f"{each.piece.name} (seed {each.piece.seed}, step {each.result['diverged']})"
            for each in self.all
            if each.piece in wanted and each.result.get("diverged")
        ]

    def commands(self, *groups: str) -> list[str]:
        """Those that made the pieces of these groups, each once."""
        wanted = set(pieces(self.plan, groups))
        return list(dict.fromkeys(e.made.command for e in self.all if e.piece in wanted))


def mean(values: Sequence[float] | Mapping[str, float]) -> float:
    """Of numbers, or of a mapping's."""
    numbers = list(values.values()) if isinstance(values, Mapping) else list(values)
    return sum(numbers) / len(numbers)
