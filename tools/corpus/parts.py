"""What is held out: chosen by hashes alone, and nothing near it is left to train on."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from reluctant.translation.pairs import Pair
from reluctant.translation.split import split, without_near
from tools.corpus.tidy import is_sentence

SHARES = {"valid": 0.03, "test": 0.08}
HELD_OUT = 1000  # pairs of each file
WORDS = 4  # of the shortest held out
TESTED = ("general", "help")
VALIDATED = ("general", "help", "game")


@dataclass(frozen=True)
class Parts:
    """train: by source; valid; test: by source; near: how many left train, by source."""

    train: dict[str, list[Pair]]
    valid: list[Pair]
    test: dict[str, list[Pair]]
    near: Counter[str]


def divide(sources: Mapping[str, Sequence[Pair]]) -> Parts:
    """Hold out pairs of the sources, and take from all of them what is near these.

    `split` says by a hash of the English sentence which may be held out. Of these, whole sentences
    of four words or more that have one translation here, the thousand with the smallest SHA-256 of
    the English are taken; for validation from each source in proportion to its size. The others
    go back to training.
    """
    drawn = {name: split(sources[name], SHARES) for name in VALIDATED}
    test = {name: smallest(drawn[name]["test"], HELD_OUT) for name in TESTED}
    total = sum(len(sources[name]) for name in VALIDATED)
    valid = [
        pair
        for name in VALIDATED
        for pair in smallest(drawn[name]["valid"], round(HELD_OUT * len(sources[name]) / total))
    ]
    held_out = [*valid, *(pair for part in test.values() for pair in part)]
    train, near = {}, Counter[str]()
    for name, found in sources.items():
        train[name], near[name] = without_near(found, held_out)
    return Parts(train, valid, test, near)


def smallest(pairs: Iterable[Pair], number: int) -> list[Pair]:
    """Of the sentences that may be held out, those with the smallest hashes, in their order."""
    found = [pair for pair in pairs if may_be_held_out(pair)]
    times = Counter(pair.source for pair in found)
    return sorted((pair for pair in found if times[pair.source] == 1), key=_hash)[:number]


def may_be_held_out(pair: Pair) -> bool:
    """Whether both sides are whole sentences, the English of four words or more.

    >>> may_be_held_out(Pair("This is all right.", "Das ist in Ordnung."))
    True
    """
    return all(map(is_sentence, pair)) and len(pair.source.split()) >= WORDS


def _hash(pair: Pair) -> str:
    return sha256(pair.source.encode()).hexdigest()
