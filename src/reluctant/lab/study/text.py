"""The text that a study's models learn from, and are measured on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reluctant.errors import ReluctantError
from reluctant.evenly import evenly
from reluctant.lab.study import sentences
from reluctant.lab.study.plan import Plan
from reluctant.translation.batches import Batch, Batches
from reluctant.translation.data import Data, gather, learned_vocabulary
from reluctant.translation.split import split
from reluctant.translation.vocabulary import Vocabulary

Ids = list[list[int]]
_ROWS = 64  # sentences of a batch that is measured on


@dataclass(frozen=True)
class Side:
    """Sentences and their translations as ids, without the marks of beginning and end."""

    sources: Ids
    targets: Ids

    def batches(self, tokens: int, seed: int) -> Batches:
        """Batches to learn from, as `reluctant train` makes them."""
        return Batches(self.sources, self.targets, tokens, seed)

    def sample(self, tokens: int, seed: int = 0) -> list[Batch]:
        """Batches of sentences drawn at random, always the same ones for a seed, until their
        sources have at least so many tokens together, or there are no more.
        """
        drawn, total = [], 0
        for index in np.random.default_rng(seed).permutation(len(self.sources)).tolist():
            if total >= tokens:
                break
            drawn.append(index)
            total += len(self.sources[index]) + 1
        drawn.sort(key=lambda index: (len(self.sources[index]), index))
        longest = max(
            (len(ids) for side in (self.sources, self.targets) for ids in side), default=0
        )
        batches = Batches(self.sources, self.targets, longest + 1, 0)
        return [batches.collate(rows) for rows in _chunks(drawn)]


@dataclass(frozen=True)
class Text:
    """What is learned from, what is held out, and the vocabulary of the former.

    fingerprint: of all text; a result belongs to it.
    """

    train: Side
    valid: Side
    vocabulary: Vocabulary
    fingerprint: str

    def validation(self) -> list[Batch]:
        """All that is held out, in batches that are always the same."""
        order = sorted(range(len(self.valid.sources)), key=lambda i: len(self.valid.targets[i]))
        longest = max(len(ids) for side in (self.valid.sources, self.valid.targets) for ids in side)
        batches = Batches(self.valid.sources, self.valid.targets, longest + 1, 0)
        return [batches.collate(rows) for rows in _chunks(order)]


def read(paths: Sequence[Path], plan: Plan) -> Text:
    """The text in files as `reluctant train` reads them; without any, sentences of our own.

    Of more text than the plan wants, pairs at even distances.

    Raises ReluctantError for files that cannot be used, and if none of the text is held out.
    """
    settings = plan.settings(plan.seeds[0])
    if paths:
        found = gather(paths, [], [], settings)
    else:
        parts = split(sentences.pairs(), {"valid": plan.valid_share})
        found = Data(parts["train"], parts["valid"], {})
    if not found.valid:
        raise ReluctantError(
            f"expected enough text to hold a share of {plan.valid_share:g} of it out, got "
            f"{len(found.train)} pairs: give more text"
        )
    train, valid = evenly(found.train, plan.pairs), evenly(found.valid, plan.valid_pairs)
    data = Data(train, valid, found.counts)
    vocabulary = learned_vocabulary(data, settings)
    sides = []
    for pairs in (train, valid):
        sources, targets = (vocabulary.encode([pair[side] for pair in pairs]) for side in (0, 1))
        longest = [max(map(len, both)) for both in zip(sources, targets, strict=True)]
        fits = [i for i, each in enumerate(longest) if each < plan.batch_tokens]
        sides.append(Side([sources[i] for i in fits], [targets[i] for i in fits]))
    if not all(side.sources for side in sides):
        raise ReluctantError("expected sentences that fit into a batch, got none: give other text")
    return Text(sides[0], sides[1], vocabulary, data.fingerprint)


def _chunks(indices: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(indices), _ROWS):
        yield indices[start : start + _ROWS]
