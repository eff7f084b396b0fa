"""Claim 3: with one dimension in and out, the layer fits between the others.

Models with and without the residual paths learn; of a trained one, layers are left out, and
neighbours change places. What the frequencies of tokens alone predict is there to measure them by.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import nn

from reluctant.lab.study.bench import Bench
from reluctant.lab.study.catalogue import BASE
from reluctant.lab.study.learn import loss
from reluctant.lab.study.plan import Plan
from reluctant.lab.study.text import Ids, Text
from reluctant.lab.study.variants import around, drop
from reluctant.translation.vocabulary import EOS

STACKS = ("encoder", "decoder")


def models(plan: Plan) -> tuple[str, ...]:
    """The models that this experiment trains."""
    return (BASE, "no-residual", "no-residuals")


def moved(bench: Bench, seed: int) -> dict[str, Any]:
    """What a trained model loses when layers are left out, or change places; not trained again.

    "loss": before. "left_out", "swapped": a list of {"what": "feed-forward" or "layer", "stack",
    "index", "change"}: of which layer, or of which and the next one; change: of the loss.
    "unigram": the loss of no model, but of `unigram`.
    """
    held_out = bench.text.validation()
    before = loss(bench.model(BASE, seed), held_out)

    def changed(stack: str, index: int, alter: Callable[[Any, int], None]) -> float:
        model = bench.model(BASE, seed)
        alter(getattr(model, stack), index)
        return loss(model, held_out) - before

    left_out, swapped = [], []
    for what, leave, swap in (
        ("feed-forward", leave_ffn, swap_ffns),
        ("layer", leave_layer, swap_layers),
    ):
        for stack in STACKS:
            for index in range(bench.plan.layers):
                at: dict[str, Any] = {"what": what, "stack": stack, "index": index}
                left_out.append({**at, "change": changed(stack, index, leave)})
                if index + 1 < bench.plan.layers:
                    swapped.append({**at, "change": changed(stack, index, swap)})
    frequencies = unigram(bench.text)
    return {"loss": before, "left_out": left_out, "swapped": swapped, "unigram": frequencies}


def unigram(text: Text) -> float:
    """The loss, in nats a held-out token, of always predicting how often each token is among the
    targets that are learned from; each counts as once more, so that none is impossible.

    >>> from reluctant.lab.study.plan import QUICK
    >>> from reluctant.lab.study.text import read
    >>> text = read([], QUICK)
    >>> 0 < unigram(text) < math.log(len(text.vocabulary))
    True
    """

    def counted(targets: Ids) -> Counter[int]:
        return Counter(token for ids in targets for token in (*ids, EOS))

    learned, held_out = counted(text.train.targets), counted(text.valid.targets)
    total = learned.total() + len(text.vocabulary)
    nats = sum(n * math.log(total / (learned[token] + 1)) for token, n in held_out.items())
    return nats / held_out.total()


def leave_ffn(stack: Any, index: int) -> None:
    """Take a layer's feed-forward layer out; the residual stream goes on."""
    drop(stack.layers[index])


def swap_ffns(stack: Any, index: int) -> None:
    """Let two neighbours' feed-forward layers change places, each with its norm."""
    one, other = stack.layers[index], stack.layers[index + 1]
    for name in ("feed_forward", around(one)):
        first, second = getattr(one, name), getattr(other, name)
        setattr(one, name, second)
        setattr(other, name, first)


def leave_layer(stack: Any, index: int) -> None:
    """Take a whole layer out."""
    stack.layers = nn.ModuleList([each for i, each in enumerate(stack.layers) if i != index])


def swap_layers(stack: Any, index: int) -> None:
    """Let two neighbours change places."""
    layers = list(stack.layers)
    layers[index], layers[index + 1] = layers[index + 1], layers[index]
    stack.layers = nn.ModuleList(layers)


MEASURES = {"moved": moved}
