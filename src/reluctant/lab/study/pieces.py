"""A study in pieces: each trains one model or makes one measurement, of one seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reluctant.errors import ReluctantError
from reluctant.lab.study import applied, combination, nonlinearity, residual, width
from reluctant.lab.study.bench import Bench
from reluctant.lab.study.plan import Plan

MODEL = "model"
Measure = Callable[[Bench, int], dict[str, Any]]


@dataclass(frozen=True)
class Group:
    """models: trained for it; measures: made on them, by their names."""

    models: Callable[[Plan], Sequence[str]]
    measures: Mapping[str, Measure]


# The claims, by their keys, and the times, which want a quiet machine. The order is the study's.
GROUPS = {
    "nonlinearity": Group(nonlinearity.models, nonlinearity.MEASURES),
    "residual": Group(residual.models, residual.MEASURES),
    "combination": Group(combination.models, combination.MEASURES),
    "applied": Group(applied.models, applied.MEASURES),
    "width": Group(width.models, width.MEASURES),
    "timing": Group(width.timed, width.TIMING),
}


@dataclass(frozen=True)
class Piece:
    """kind: MODEL, name then being the model's; or "measure", with the measurement's name."""

    kind: str
    name: str
    seed: int

    @property
    def file(self) -> str:
        """The name of its result file.

        >>> Piece("model", "base", 1).file
        'model-base-1.json'
        """
        return f"{self.kind}-{self.name}-{self.seed}.json"

    def do(self, bench: Bench) -> dict[str, Any]:
        """The result. Raises Stopped if the bench says so."""
        if self.kind == MODEL:
            return bench.train(self.name, self.seed)
        bench.tell(f"{self.name}, seed {self.seed}")
        return MEASURES[self.name](bench, self.seed)


MEASURES: dict[str, Measure] = {
    name: measure for group in GROUPS.values() for name, measure in group.measures.items()
}


def pieces(plan: Plan, only: Sequence[str] = ()) -> list[Piece]:
    """All pieces of some groups, each once; none named: of all.

    Raises ReluctantError for a name that is none.

    >>> from reluctant.lab.study.plan import FULL
    >>> [piece.file for piece in pieces(FULL, ["combination"])][-2:]
    ['measure-neurons-2.json', 'measure-neurons-3.json']
    """
    unknown = [name for name in only if name not in GROUPS]
    if unknown:
        raise ReluctantError(
            f"--only: expected some of {', '.join(GROUPS)}; got {', '.join(unknown)}"
        )
    found: dict[Piece, None] = {}
    for name in only or GROUPS:
        group = GROUPS[name]
        for kind, names in ((MODEL, group.models(plan)), ("measure", group.measures)):
            found |= {Piece(kind, each, seed): None for each in names for seed in plan.seeds}
    return list(found)
