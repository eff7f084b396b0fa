"""Several ways of doing one thing, timed in turns within one run.

A shared machine drifts by tens of per cent within minutes: figures are comparable only if
everything was measured at the same time. So the ways take turns. A turn begins with calls that
are not timed: they bring back what the way before has pushed out of the caches, and outlast its
threads, which go on spinning for some milliseconds.
"""

from collections.abc import Callable, Mapping
from math import inf
from random import Random
from statistics import median
from time import perf_counter, sleep
from typing import Any

FEWEST = 3  # rounds, however little time is left


def in_turns(
    calls: Mapping[str, Callable[[int], object]],
    *,
    rounds: int,
    settle: float | None = 0.02,
    turn: float = 0.02,
    cycle: int = 1,
    rest: Mapping[str, float] | None = None,
    budget: float = inf,
    on_round: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Times of all timed calls of each way, in seconds.

    Args:
        calls: name -> function; it is given a number that rises with every call, to choose
            another input, or another layer, each time.
        rounds: in each one every way has one turn, in another order each time: what ran before
            matters (a way that reads little leaves the next one more of the caches).
        settle: seconds at the start of a turn that are not timed (at least one call); None: no such
            call, for calls so long that their start does not matter.
        turn: seconds of each turn that are timed (at least one call).
        cycle: number of calls after which a way is again where it was, as one that calls the
            layers of a model in turn: a turn settles for at least that many.
        rest: name -> seconds of sleep after that way's turns: its threads may spin for so long.
        budget: seconds after which no further round is begun, once there have been three.
        on_round: called after each round.

    >>> times = in_turns({"a": lambda number: number}, rounds=2, settle=0.0, turn=0.0)
    >>> len(times["a"])
    2
    """
    names = list(calls)
    counts = dict.fromkeys(names, 0)
    times: dict[str, list[float]] = {name: [] for name in names}

    def run(name: str, seconds: float, least: int) -> list[float]:
        taken: list[float] = []
        end = perf_counter() + seconds
        while len(taken) < least or perf_counter() < end:
            number = counts[name] = counts[name] + 1
            start = perf_counter()
            calls[name](number)
            taken.append(perf_counter() - start)
        return taken

    end = perf_counter() + budget
    for number in range(rounds):
        if number >= FEWEST and perf_counter() > end:
            break
        for name in Random(number).sample(names, len(names)):
            if settle is not None:
                run(name, settle, cycle)
            times[name] += run(name, turn, 1)
            sleep((rest or {}).get(name, 0.0))
        on_round()
    return times


def interleaved(calls: Mapping[str, Callable[[int], object]], **turns: Any) -> dict[str, float]:
    """Median time of one call of each way, in seconds; takes what `in_turns` takes.

    >>> ways = {"a": lambda number: number, "b": lambda number: sum(range(number))}
    >>> seconds = interleaved(ways, rounds=2, settle=0.001, turn=0.001)
    >>> sorted(seconds)
    ['a', 'b']
    """
    return {name: median(taken) for name, taken in in_turns(calls, **turns).items()}
