"""Several runtimes decode the same sentences, in turns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter, sleep

from tools.decoding.runtimes import Decode

TURNS = 8  # of each runtime in a round, if there are as many batches
REST = 0.02  # seconds after a turn: threads of its runtime may spin for some milliseconds


@dataclass(frozen=True)
class Measured:
    """targets: of each source. seconds: of each round, for all of them."""

    targets: list[list[int]]
    seconds: list[float]

    @property
    def tokens(self) -> int:
        """Of all targets, with their ends."""
        return sum(map(len, self.targets))

    @property
    def tokens_per_second(self) -> float:
        """By the median round."""
        return self.tokens / median(self.seconds)


def turns(lengths: Sequence[int], batch: int) -> list[list[list[int]]]:
    """For each turn its batches: indices of sentences, from short to long.

    >>> turns([9, 2, 3, 8, 1], 2)
    [[[4, 1]], [[2, 3]], [[0]]]
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    size = -(-len(batches) // TURNS)
    return [batches[i : i + size] for i in range(0, len(batches), size)]


def measure(
    ways: Mapping[str, Decode],
    sources: Sequence[list[int]],
    *,
    batch: int,
    beam: int,
    rounds: int,
    on_turn: Callable[[], object] = lambda: None,
) -> dict[str, Measured]:
    """Decode all sources by each of the ways, `batch` at once.

    In each round a way has several turns, and who begins rotates. Each way has decoded the
    shortest and the longest batch before, untimed. on_turn: called after each turn.

    >>> ways = {"echo": lambda sources, beam: list(sources)}
    >>> measure(ways, [[5, 2], [7, 8, 2]], batch=1, beam=1, rounds=2)["echo"].tokens
    5
    """
    names, parts = list(ways), turns([len(source) for source in sources], batch)
    targets: dict[str, list[list[int]]] = {name: [[] for _ in sources] for name in names}
    seconds = {name: [0.0] * rounds for name in names}
    for name in names:
        for warm_up in (parts[0][0], parts[-1][-1]):
            ways[name]([sources[i] for i in warm_up], beam)
    for turn in range(rounds * len(parts)):
        first = turn % len(names)
        batches = parts[turn % len(parts)]
        given = [[sources[i] for i in indices] for indices in batches]
        for name in names[first:] + names[:first]:
            start = perf_counter()
            found = [ways[name](each, beam) for each in given]
            seconds[name][turn // len(parts)] += perf_counter() - start
            for indices, several in zip(batches, found, strict=True):
                for i, target in zip(indices, several, strict=True):
                    targets[name][i] = target
            sleep(REST)
            on_turn()
    return {name: Measured(targets[name], seconds[name]) for name in names}
