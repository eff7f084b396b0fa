"""Which neurons answer to two things at once, and to neither of them alone."""

from typing import NamedTuple

import torch
from torch import Tensor

FIRES = 0.05  # of the tokens: a neuron that fires less there does not answer to them
TIMES = 2.0  # as often as elsewhere
ENOUGH = 100  # tokens of each of the four kinds


class Rates(NamedTuple):
    """Of each neuron, how often it fires where both hold, the first alone, the second alone, and
    neither; (d_ff,) each.
    """

    both: Tensor
    first: Tensor
    second: Tensor
    neither: Tensor


def rates(active: Tensor, first: Tensor, second: Tensor) -> Rates | None:
    """active: (tokens, d_ff) bool; first, second: (tokens,) bool. None if tokens are too few."""
    cells = first & second, first & ~second, ~first & second, ~first & ~second
    if min(int(cell.sum()) for cell in cells) < ENOUGH:
        return None
    return Rates(*(active[cell].double().mean(0) for cell in cells))


def conjunctive(found: Rates) -> Tensor:
    """Which neurons answer to both together and to neither alone, (d_ff,) bool.

    A neuron *answers* to tokens if it fires on at least FIRES of them, and at least TIMES as often
    as where neither holds. It counts if it answers where both hold, TIMES as often as where one
    holds alone, and answers to neither of these.

    >>> both = torch.tensor([0.4, 0.4, 0.04, 0.9])
    >>> first = torch.tensor([0.1, 0.3, 0.01, 0.4])
    >>> conjunctive(Rates(both, first, torch.full((4,), 0.01), torch.full((4,), 0.08)))
    tensor([ True, False, False, False])
    """
    alone = torch.maximum(found.first, found.second)
    answers = (found.both >= FIRES) & (found.both >= TIMES * torch.maximum(alone, found.neither))
    parts = (alone >= FIRES) & (alone >= TIMES * found.neither)
    return answers & ~parts


def share(active: Tensor, firsts: Tensor, seconds: Tensor) -> float:
    """The share of neurons that are conjunctive for any of the pairs of a first and a second.

    active: (tokens, d_ff) bool; firsts: (tokens, a), seconds: (tokens, b), bool.
    """
    found = torch.zeros(active.shape[1], dtype=torch.bool)
    for first in firsts.unbind(1):
        for second in seconds.unbind(1):
            each = rates(active, first, second)
            if each is not None:
                found |= conjunctive(each)
    return float(found.double().mean())
