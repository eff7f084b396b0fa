"""Which neurons answer to two things at once, and to neither of them alone."""

from typing import NamedTuple

import torch
from torch import Tensor

FIRES = 0.05  # of the tokens of both: a neuron that fires less there is not counted
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

    A neuron counts if it fires on at least FIRES of the tokens where both hold, at least TIMES as
    often there as where one holds alone or neither, and where one holds alone no more than TIMES as
    often as where neither does - however seldom that is: what is rare may be a part, too. So no
    neuron counts whose rate where both hold is what the two add up to, first + second - neither.

    >>> both = torch.tensor([0.4, 0.4, 0.04, 0.9, 0.1])
    >>> first = torch.tensor([0.1, 0.3, 0.01, 0.4, 0.04])
    >>> neither = torch.tensor([0.08, 0.08, 0.08, 0.08, 0.0])
    >>> conjunctive(Rates(both, first, torch.full((5,), 0.01), neither))
    tensor([ True, False, False, False, False])
    """
    alone = torch.maximum(found.first, found.second)
    more = found.both >= TIMES * torch.maximum(alone, found.neither)
    return (found.both >= FIRES) & more & (alone <= TIMES * found.neither)


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
