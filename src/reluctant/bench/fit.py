"""From measured cells to a table of limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt

from reluctant.tables import DTYPES, FEW_TOKENS, WAYS, Table, check
from reluctant.ways import Limits, look_up


@dataclass(frozen=True)
class Cell:
    """One measured cell: a shape, a number of tokens and a density.

    candidates, screened: the shares of candidates that the few-token kernel and the screen leave.
    seconds: by way ("... in vain": a try that gives up, then the dense way); also "auto", as the
    limits in use choose, if that was measured.
    """

    dtype: str
    weights: int
    tokens: int
    density: float
    candidates: float
    screened: float
    seconds: dict[str, float]

    @property
    def shares(self) -> tuple[float, float, float]:
        """What the limits are compared with."""
        return self.candidates, self.screened, self.density

    @property
    def best(self) -> float:
        """The best way's seconds."""
        return min(self.seconds[way] for way in (*WAYS, "dense") if way in self.seconds)

    @property
    def regret(self) -> float:
        """The automatic choice's time over the best way's."""
        return self.seconds["auto"] / self.best


def limits_of(cells: list[Cell], largest: Sequence[float] = (0.0, 0.0, 0.0)) -> Limits:
    """The limits for one dtype, size and number of tokens, from its cells in rising density.

    Of all limits between the cells' shares those with the least regret, squared: bad cells count
    most. A way that gives up costs what it cost to try. No limit is above the largest share of
    these cells or, where all of them pass, of their size (`largest`): drawn shares differ a little
    from one number of tokens to the next.

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
    Limits(few=0.3, screen=0.0, many=0.0)
    >>> cells[2].seconds["few"] = 9.0
    >>> limits_of(cells)
    Limits(few=0.0, screen=0.0, many=0.0)
    """
    shares = zip(*(cell.shares for cell in cells), strict=True)
    offered = [
        _between(list(of), top) if way in cells[0].seconds else [0.0]
        for way, of, top in zip(WAYS, shares, largest, strict=True)
    ]

    def regret(limits: Limits) -> float:
        return sum((expected(c, limits) / c.best - 1) ** 2 for c in cells)

    return min((Limits(*found) for found in product(*offered)), key=regret)


def _between(shares: list[float], largest: float) -> list[float]:
    """Limits that tell one cell from the next, and those that none or all pass."""
    halfway = [round((one + other) / 2, 3) for one, other in pairwise(shares)]
    return [0.0, *halfway, round(max(shares[-1], largest), 3)]


def expected(cell: Cell, limits: Limits) -> float:
    """Seconds of a call under these limits: as `Engine.forward` chooses."""
    t = cell.seconds
    # No try is free; that one was faster than the dense way alone is chance.
    vain = {way: max(t.get(f"{way} in vain", 0.0) - t["dense"], 0.0) for way in WAYS}
    spent = 0.0
    if limits.few and "few" in t:
        if round(cell.candidates, 3) <= limits.few:
            return t["few"]
        spent += vain["few"]
    if limits.screen > limits.few and "screen" in t:
        if round(cell.screened, 3) <= limits.screen:
            return spent + t["screen"]
        spent += vain["screen"]
    if limits.many and "many" in t:
        if cell.density <= limits.many:
            return spent + t["many"]
        spent += vain["many"]
    return spent + t["dense"]


def regrets(cells: list[Cell], table: Table) -> list[float]:
    """By cell: the time of a call that goes by this table, over the best way's."""
    return [expected(c, look_up(table, c.dtype, c.weights, c.tokens)) / c.best for c in cells]


def table_of(cells: list[Cell], about: Table) -> Table:
    """The table that these cells make, with what it says of where they were measured.

    A dtype's cells need not be a whole grid: what is missing is filled in from the next smaller
    size. Beyond FEW_TOKENS, where no such cells were measured, there is no sparse way.

    Raises:
        ReluctantError: the table would break a rule of `tables`.
    """
    limits: Table = {}
    largest: Table = {}
    for dtype in DTYPES:
        mine = [c for c in cells if c.dtype == dtype]
        sizes = sorted({c.weights for c in mine})
        tokens = sorted({c.tokens for c in mine} | {4 * FEW_TOKENS})
        raw = np.zeros((len(sizes), len(tokens), len(WAYS)))
        top = np.zeros((len(sizes), len(WAYS)))
        for i, size in enumerate(sizes):
            top[i] = np.max([c.shares for c in mine if c.weights == size], axis=0).round(3)
        for (i, size), (j, count) in product(enumerate(sizes), enumerate(tokens)):
            here = [c for c in mine if (c.weights, c.tokens) == (size, count)]
            raw[i, j] = limits_of(here, top[i]) if here else raw[i - 1, j] if i else 0.0
        fitted = _monotone(raw, top, np.array(tokens) <= FEW_TOKENS)
        largest[dtype] = dict(zip(map(str, sizes), top.tolist(), strict=True))
        limits[dtype] = {
            str(size): dict(zip(map(str, tokens), fitted[i].tolist(), strict=True))
            for i, size in enumerate(sizes)
        }
    table = {**about, "largest": largest, "limits": limits}
    check(table)
    return table


def _monotone(
    raw: npt.NDArray[np.float64], top: npt.NDArray[np.float64], is_few: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Limits (sizes, tokens, ways) that keep the rules of `tables`, close to those measured."""
    fitted = raw.copy()
    fitted[:, is_few, 0] = _between_hulls(raw[:, is_few, 0])
    for way in (1, 2):
        fitted[:, ~is_few, way] = _between_hulls(raw[:, ~is_few, way])
        for j in np.flatnonzero(is_few):
            fitted[:, j : j + 1, way] = _between_hulls(raw[:, j : j + 1, way])
    most = np.minimum.accumulate(top[::-1], axis=0)[::-1]  # of this size and of all larger ones
    return np.asarray(np.minimum(np.floor(fitted * 1000 + 1e-6) / 1000, most[:, None]))


def _between_hulls(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Not falling along the first axis, not rising along the second: the mean of the least such
    values above the given ones, and of the largest below. Given values that are so stay.

    >>> _between_hulls(np.array([[0.4, 0.2], [0.3, 0.1]])).tolist()
    [[0.35, 0.15000000000000002], [0.35, 0.15000000000000002]]
    """
    rising = values[:, ::-1]
    above = np.maximum.accumulate(np.maximum.accumulate(rising, 0), 1)
    back: Any = np.minimum.accumulate(np.minimum.accumulate(rising[::-1, ::-1], 0), 1)
    return np.asarray(((above + back[::-1, ::-1]) / 2)[:, ::-1])
