"""Batches of sentences that are about as long as each other."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.translation.vocabulary import BOS, EOS, PAD


class Batch(NamedTuple):
    """What a step of training reads; int64 ids, with PAD after the end of each row.

    source: (b, m), each row ended by EOS.
    target: (b, n), each row begun by BOS: what the decoder is given.
    labels: (b, n), each row ended by EOS: what it should answer.
    """

    source: Tensor
    target: Tensor
    labels: Tensor


class Batches:
    """Pairs of sentences, as ids, in batches of at most so many positions.

    sources, targets: ids of each pair's sentences, without BOS and EOS.
    tokens: the most positions that a batch's padded source has, and its padded target, each.
    seed: with an epoch's number, it alone decides which pairs come together, and when.

    Of 200,000 pairs with lengths as in a corpus (log-normal, 98 % of them from 4 to 72), 5 % of the
    positions in batches of 4096 are padding, and 7 % in batches of 16384. In random order it would
    be 70 % and 76 %.

    Raises ReluctantError for a sentence that is longer than `tokens`, for as many sources as there
    are not targets, and for a negative seed.

    >>> batches = Batches([[5, 6], [7], [8]], [[9], [5, 7], [4]], tokens=6, seed=0)
    >>> batches.in_order()
    [[1, 2], [0]]
    >>> batches.collate([1, 2]).labels
    tensor([[5, 7, 2],
            [4, 2, 0]])
    """

    def __init__(
        self,
        sources: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        tokens: int,
        seed: int,
    ) -> None:
        if len(sources) != len(targets):
            raise ReluctantError(
                f"expected a target for each source, got {len(sources)} sources and "
                f"{len(targets)} targets"
            )
        if seed < 0:
            raise ReluctantError(f"expected a seed from 0 up, got {seed}")
        self._sources, self._targets, self._tokens, self._seed = sources, targets, tokens, seed
        # positions in a batch: one more than there are tokens, for EOS or BOS
        lengths = [[len(s) + 1, len(t) + 1] for s, t in zip(sources, targets, strict=True)]
        self._lengths = np.array(lengths, dtype=np.int64).reshape(-1, 2)
        if lengths and (longest := int(self._lengths.max())) > tokens:
            raise ReluctantError(
                f"expected sentences of at most {tokens} tokens, EOS among them, got one of "
                f"{longest}: leave it out, or allow a batch more tokens"
            )

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self._sources)

    @property
    def target_tokens(self) -> int:
        """Of all targets, their ends among them."""
        return int(self._lengths[:, 1].sum())

    def epoch(self, number: int) -> list[list[int]]:
        """The pairs' indices, batch by batch: every pair once, another order for each number.

        A function of the data, tokens, seed and number alone.
        """
        generator = np.random.default_rng([self._seed, number])
        # Blurred by up to one token, so that a pair meets others each time.
        blurred = self._lengths + generator.uniform(-1, 1, self._lengths.shape)
        batches = self._fill(_by_length(blurred))
        return [batches[i] for i in generator.permutation(len(batches)).tolist()]

    def in_order(self) -> list[list[int]]:
        """The same for validation, from short to long and always the same."""
        return self._fill(_by_length(self._lengths))

    def collate(self, indices: Sequence[int]) -> Batch:
        """The batch of these pairs, in this order."""
        sources = [self._sources[i] for i in indices]
        targets = [self._targets[i] for i in indices]
        return Batch(
            _padded([*ids, EOS] for ids in sources),
            _padded([BOS, *ids] for ids in targets),
            _padded([*ids, EOS] for ids in targets),
        )

    def _fill(self, order: list[int]) -> list[list[int]]:
        """One batch after the other, each as full as it may be."""
        lengths: list[int] = self._lengths.max(1).tolist()
        batches: list[list[int]] = []
        longest = 0
        for index in order:
            longest = max(longest, lengths[index])
            if not batches or (len(batches[-1]) + 1) * longest > self._tokens:
                batches.append([])
                longest = lengths[index]
            batches[-1].append(index)
        return batches


def _by_length(lengths: NDArray[Any]) -> list[int]:
    """The order of pairs from short to long. lengths: (pairs, 2), of source and target.

    Among targets of nearly one length the sources decide: from short to long and, among the next
    ones, from long to short, so that a batch across both has sources of one length, too.
    """
    step = np.floor(lengths[:, 1] / 2).astype(np.int64)
    sources = np.where(step % 2, lengths[:, 0], -lengths[:, 0])
    order: list[int] = np.lexsort((sources, step)).tolist()
    return order


def _padded(rows: Iterable[list[int]]) -> Tensor:
    listed = list(rows)
    width = max(map(len, listed), default=0)
    padded = [row + [PAD] * (width - len(row)) for row in listed]
    return torch.tensor(padded, dtype=torch.int64).reshape(len(listed), width)
