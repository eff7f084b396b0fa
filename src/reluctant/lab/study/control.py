"""What to compare a trained layer with: a random one as sparse, and labels that go by the word."""

from collections.abc import Callable

import torch
from torch import Tensor

from reluctant.feedforward import FeedForward
from reluctant.lab.study.seen import Seen
from reluctant.lab.study.variants import drawn


def random_layer(like: Seen, seed: int, *, sparse: bool) -> Callable[[Tensor], Tensor]:
    """x (tokens, d_model) -> ReLU(x W + b) (tokens, d_ff), W drawn as an untrained layer has it.

    b: zero; if sparse, such that the i-th neuron fires on as many of the tokens like.x as the i-th
    of like.h does (on one less, if that is all of them). What is rare is easily taken for a choice:
    only neurons that fire as often can be compared.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        up = drawn(FeedForward(like.x.shape[1], like.h.shape[1])).up
    with torch.no_grad():
        falling = up(like.x).sort(0, descending=True).values
        fires = (like.h > 0).sum(0).clamp(max=len(falling) - 1)
        first_silent = falling.gather(0, fires[None])[0]
        bias = -first_silent if sparse else torch.zeros_like(first_silent)

    @torch.no_grad()
    def hidden(x: Tensor) -> Tensor:
        return torch.relu(up(x) + bias)

    return hidden


def within_words(tokens: Tensor, seed: int) -> Tensor:
    """An order, (n,), that deals labels out anew among tokens of the same id.

    tokens: (n,) ids. Labels in this order still go with the token itself as they did, but no longer
    with its context.

    >>> tokens = torch.tensor([7, 3, 7, 3, 7, 5])
    >>> tokens[within_words(tokens, 0)].tolist()
    [7, 3, 7, 3, 7, 5]
    """
    mixed = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
    order = torch.empty_like(mixed)
    order[tokens.argsort(stable=True)] = mixed[tokens[mixed].argsort(stable=True)]
    return order
