"""Claim 4: features are combined. What linear probes read, and which neurons answer to two things.

The two things: the class of the word before a token, and where the token stands. Both by rules
(`words.py`), on the encoder's side.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from reluctant.lab.study.bench import Bench
from reluctant.lab.study.catalogue import BASE
from reluctant.lab.study.control import random_layer, within_words
from reluctant.lab.study.neurons import share
from reluctant.lab.study.plan import Plan
from reluctant.lab.study.probe import accuracy
from reluctant.lab.study.seen import Seen, seen
from reluctant.lab.study.text import Side
from reluctant.lab.study.words import CLASSES, PLACES, Labels, balanced, labels
from reluctant.transformer.model import Transformer

# What probes tell, and how often who knows nothing is right, of balanced tokens.
TASKS = {"word": 0.5, "half": 0.5, "both": 0.25, "either": 0.5}
ALONE = ("parts", "token")
WHERE = ("input", "hidden", "random", "dense", "output")
NEURONS = ("trained", "random", "dense", "dealt")


def models(plan: Plan) -> tuple[str, ...]:
    """The models that this experiment trains."""
    return (BASE,)


def tasks(found: Labels) -> dict[str, Tensor]:
    """Classes to be told, of each token.

    "word": whether the word before is a function word; "half": whether this is the sentence's first
    half; "both": which of the four cases; "either": whether exactly one of the two is true. Who
    reads the two tells "both", without combining anything; of "either" no sum of them tells
    anything, if the tokens are `balanced`.
    """
    word, half = found.function, found.early
    return {"word": word, "half": half, "both": 2 * word + half, "either": word ^ half}


def parts(found: Labels) -> Tensor:
    """What the tasks are made of, nothing of it combined: the class of the word before, the third
    of the sentence and the half, (tokens, 10), each as a one-hot vector (the half as one number).
    """
    kind, place = one_hot(found.kind, len(CLASSES)), one_hot(found.place, len(PLACES))
    return torch.cat([kind, place, found.early[:, None]], 1).float()


def probes(bench: Bench, seed: int) -> dict[str, Any]:
    """How often linear probes are right on held-out tokens, `balanced` as those that they learn.

    "alone": by what is read and task, of probes of no layer: of "parts", and of "token", the token
    itself as a one-hot vector. "accuracy": by encoder layer, task and what is read: "input",
    "hidden" and "output" of its feed-forward layer; "random" and "dense": the hidden vector of a
    layer as wide with weights that were drawn, of the same input, whose neurons fire as often as
    the trained ones on the tokens that probes learn, or have no biases.
    """
    model = bench.model(BASE, seed)
    here, known = _balanced(bench, model, bench.text.train, seed)
    there, wanted = _balanced(bench, model, bench.text.valid, seed)

    def read(task: str, x: Tensor, held_out: Tensor) -> float:
        bench.check()
        return accuracy(x, tasks(known)[task], (held_out, tasks(wanted)[task]))

    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, layer in here.items():
        bench.tell(f"probes, seed {seed}: {name}")
        other = there[name]
        random, dense = (random_layer(layer, seed, sparse=each) for each in (True, False))
        vectors = {
            "input": (layer.x, other.x),
            "hidden": (layer.h, other.h),
            "random": (random(layer.x), random(other.x)),
            "dense": (dense(layer.x), dense(other.x)),
            "output": (layer.y, other.y),
        }
        found[name] = {task: {w: read(task, *vectors[w]) for w in WHERE} for task in TASKS}
    count = len(bench.text.vocabulary)
    tokens = tuple(one_hot(each.token, count).float() for each in (known, wanted))
    alone = {"parts": (parts(known), parts(wanted)), "token": tokens}
    return {
        "alone": {w: {task: read(task, *alone[w]) for task in TASKS} for w in ALONE},
        "accuracy": found,
    }


def neurons(bench: Bench, seed: int) -> dict[str, Any]:
    """The share of each encoder layer's neurons that answer to a class of the word before *and* a
    third of the sentence, and to neither alone (`neurons.conjunctive`).

    By layer: "trained"; "random" and "dense": the neurons of a layer as wide with weights that were
    drawn, of the same input, which fire on as many of these tokens as the trained ones, or have no
    biases; "dealt": the trained ones, with the labels dealt out anew among tokens of the same id,
    which is what neurons give that answer to the token itself and not to its context.
    """
    model = bench.model(BASE, seed)
    layers, found = _sampled(bench, model, bench.text.train, seed)
    order = within_words(found.token, seed)
    return {
        "layers": {
            name: {
                "trained": _share(layer.h, found),
                "random": _share(random_layer(layer, seed, sparse=True)(layer.x), found),
                "dense": _share(random_layer(layer, seed, sparse=False)(layer.x), found),
                "dealt": _share(layer.h, found.at(order)),
            }
            for name, layer in layers.items()
        }
    }


def _share(h: Tensor, found: Labels) -> float:
    """Of neurons (tokens, d_ff), for all pairs of a class of function words and a third."""
    classes = one_hot(found.kind, len(CLASSES)).bool()[:, 1:]
    return share(h > 0, classes, one_hot(found.place, len(PLACES)).bool())


def _sampled(
    bench: Bench, model: Transformer, side: Side, seed: int
) -> tuple[dict[str, Seen], Labels]:
    """The encoder's layers on a sample of one side of the text, and its tokens' labels.

    Every seed has a sample of its own: how much hangs on the sample is in the spread.
    """
    batches = side.sample(bench.plan.tokens, seed)
    layers = {name: each for name, each in seen(model, batches).items() if "encoder" in name}
    return layers, labels(batches, bench.text.vocabulary)


def _balanced(
    bench: Bench, model: Transformer, side: Side, seed: int
) -> tuple[dict[str, Seen], Labels]:
    """Of such a sample, what is `balanced`."""
    layers, found = _sampled(bench, model, side, seed)
    rows = balanced(found, seed)
    kept = {name: Seen(each.x[rows], each.h[rows], each.y[rows]) for name, each in layers.items()}
    return kept, found.at(rows)


MEASURES = {"probes": probes, "neurons": neurons}
