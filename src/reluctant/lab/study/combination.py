"""Claim 4: features are combined. What linear probes read, and which neurons answer to two things.

The two things: the class of the word before a token, and where the token stands. Both by rules
(`words.py`), on the encoder's side.
"""

from typing import Any

import torch
from torch import Tensor

from reluctant.feedforward import FeedForward
from reluctant.lab.study.bench import Bench
from reluctant.lab.study.catalogue import BASE
from reluctant.lab.study.neurons import share
from reluctant.lab.study.plan import Plan
from reluctant.lab.study.probe import accuracy, majority
from reluctant.lab.study.seen import Seen, seen
from reluctant.lab.study.variants import drawn
from reluctant.lab.study.words import CLASSES, PLACES, Labels, labels
from reluctant.transformer.model import Transformer
from reluctant.translation.batches import Batch

TASKS = ("class", "place", "both", "either")
WHERE = ("input", "hidden", "random", "output")


def models(plan: Plan) -> tuple[str, ...]:
    """The models that this experiment trains."""
    return (BASE,)


def tasks(found: Labels) -> dict[str, Tensor]:
    """Classes to be told, of each token.

    "class": of the word before; "place": the third of the sentence; "both": the pair of these.
    "either": whether exactly one is true of "the word before is a function word" and "this is the
    sentence's first half" - of which no sum of the two tells anything.
    """
    function = (found.kind > 0).long()
    return {
        "class": found.kind,
        "place": found.place,
        "both": found.kind * len(PLACES) + found.place,
        "either": function ^ found.early,
    }


def probes(bench: Bench, seed: int) -> dict[str, Any]:
    """How often linear probes are right on held-out tokens.

    "majority": by task, of always saying the commonest class. "accuracy": by encoder layer, task
    and what is read: "input", "hidden", "output" of its feed-forward layer, and "random": the
    hidden vector of a layer as wide with weights that were drawn, of the same input.
    """
    model = bench.model(BASE, seed)
    here, there = _sampled(bench, model, bench.text.train), _sampled(bench, model, bench.text.valid)
    known, wanted = tasks(here[1]), tasks(there[1])
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, layer in here[0].items():
        other, random = there[0][name], _random(layer, seed)
        read = {
            "input": (layer.x, other.x),
            "hidden": (layer.h, other.h),
            "random": (random(layer.x), random(other.x)),
            "output": (layer.y, other.y),
        }
        found[name] = {}
        for task in TASKS:
            bench.tell(f"probes, seed {seed}: {name}, {task}")
            bench.check()
            found[name][task] = {
                where: accuracy(a, known[task], (b, wanted[task])) for where, (a, b) in read.items()
            }
    by_chance = {task: majority(known[task], wanted[task]) for task in TASKS}
    return {"majority": by_chance, "accuracy": found}


def neurons(bench: Bench, seed: int) -> dict[str, Any]:
    """The share of each encoder layer's neurons that answer to a class of the word before *and* a
    third of the sentence, and to neither alone (`neurons.conjunctive`).

    By layer: "trained"; "shuffled": the same with the labels dealt out to other tokens; "random":
    the neurons of a layer as wide with weights that were drawn, of the same input.
    """
    model = bench.model(BASE, seed)
    layers, found = _sampled(bench, model, bench.text.train)
    classes = torch.nn.functional.one_hot(found.kind, len(CLASSES)).bool()[:, 1:]
    places = torch.nn.functional.one_hot(found.place, len(PLACES)).bool()
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    return {
        "layers": {
            name: {
                "trained": share(layer.h > 0, classes, places),
                "shuffled": share(layer.h > 0, classes[order], places[order]),
                "random": share(_random(layer, seed)(layer.x) > 0, classes, places),
            }
            for name, layer in layers.items()
        }
    }


def _sampled(bench: Bench, model: Transformer, side: Any) -> tuple[dict[str, Seen], Labels]:
    """The encoder's layers on a sample of one side of the text, and its tokens' labels."""
    batches: list[Batch] = side.sample(bench.plan.tokens)
    layers = {name: each for name, each in seen(model, batches).items() if "encoder" in name}
    return layers, labels(batches, bench.text.vocabulary)


def _random(layer: Seen, seed: int) -> Any:
    """x -> ReLU(x W + b) with weights as an untrained layer has them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ffn = drawn(FeedForward(layer.x.shape[1], layer.h.shape[1]))

    @torch.no_grad()
    def hidden(x: Tensor) -> Tensor:
        return ffn.activation(ffn.up(x))

    return hidden


MEASURES = {"probes": probes, "neurons": neurons}
