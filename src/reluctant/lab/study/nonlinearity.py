"""Claim 1: the activation adds what linear maps lack.

Models with ReLU, with the identity in its place, and without feed-forward layers learn, each at two
rates; trained layers are imitated by one linear map; and how alike the positions of the residual
stream become is followed by depth.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.lab.rank import effective_rank
from reluctant.lab.study import variants
from reluctant.lab.study.bench import Bench
from reluctant.lab.study.catalogue import ACTIVATIONS, BASE, HALF, variant
from reluctant.lab.study.learn import loss
from reluctant.lab.study.linear_map import LinearMap, best_linear, constant, r_squared
from reluctant.lab.study.plan import Plan
from reluctant.lab.study.rank import distance_from_alike
from reluctant.lab.study.seen import seen
from reluctant.lab.study.variants import layers_of
from reluctant.transformer.model import Transformer
from reluctant.translation.batches import Batch
from reluctant.translation.vocabulary import PAD

TRAINED = (BASE, "identity", "none", "none-deep")
IMITATED = (BASE, "identity", *ACTIVATIONS)
# What trained feed-forward layers are replaced by, all at once.
INSTEAD = ("replaced", "refitted", "mean", "dropped")
# What is left of the layers' paths when the rank is followed.
PATHS: dict[str, Sequence[Callable[[Transformer], None]]] = {
    "whole": (),
    "without feed-forward": (variants.without_feed_forward,),
    "without residual": (variants.without_residuals,),
    "attention alone": (variants.without_residuals, variants.without_feed_forward),
}


def models(plan: Plan) -> tuple[str, ...]:
    """The models that this experiment trains."""
    return tuple(dict.fromkeys([*TRAINED, *(name + HALF for name in TRAINED), *IMITATED]))


class _Imitation(nn.Module):
    """A linear map where a feed-forward layer was."""

    def __init__(self, by: LinearMap) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return self.by(x)


def collapsed(layer: Any) -> LinearMap:
    """The one linear map that a feed-forward layer with the identity is, in float64.

    >>> from reluctant.feedforward import FeedForward
    >>> layer, x = FeedForward(4, 16, "identity"), torch.randn(3, 4)
    >>> torch.allclose(collapsed(layer)(x), layer(x), atol=1e-5)
    True
    """
    up, down = layer.up.weight.double(), layer.down.weight.double()
    bias = layer.down.bias.double() + down @ layer.up.bias.double()
    return LinearMap((down @ up).T.detach(), bias.detach())


def linear(bench: Bench, seed: int) -> dict[str, Any]:
    """How far one linear map does what trained layers do.

    "collapse": of the layers with the identity, the largest difference of an output from that of
    their one matrix, and from the same layer in float64, over the largest output.
    "imitated": by model, "r2": by layer, on held-out tokens, of the map that fits best; "loss":
    before; and the loss with all layers replaced: "replaced": by such maps; "refitted": by maps
    fitted one after the other, each on what comes from those before it; "mean": by the layers' mean
    outputs; "dropped": by nothing.
    """
    plan, text = bench.plan, bench.text
    fitted, held_out = text.train.sample(plan.tokens), text.valid.sample(plan.tokens)
    validation = text.validation()
    imitated = {}
    collapse: dict[str, float] = {}
    for name in IMITATED:
        model = bench.model(name, seed)
        before, here, there = loss(model, validation), seen(model, fitted), seen(model, held_out)
        if name == "identity":
            collapse = _collapse(model, {each: there[each].x for each in there})
        maps = {each: best_linear(here[each].x, here[each].y) for each in here}
        means = {each: constant(here[each].y.mean(0)) for each in here}
        shares = {each: r_squared(maps[each](there[each].x), there[each].y) for each in maps}
        instead = {
            "replaced": replaced(model, maps),
            "refitted": refitted(model, fitted),
            "mean": replaced(model, means),
            "dropped": copy.deepcopy(model),
        }
        variants.without_feed_forward(instead["dropped"])
        losses = {way: loss(instead[way], validation) for way in INSTEAD}
        imitated[name] = {"r2": shares, "loss": before, **losses}
    return {"collapse": collapse, "imitated": imitated}


def replaced(model: Transformer, maps: Mapping[str, LinearMap]) -> Transformer:
    """A copy of a model with linear maps where feed-forward layers were, by the layers' names."""
    model = copy.deepcopy(model)
    for name, layer in layers_of(model).items():
        layer.feed_forward = _Imitation(maps[name])
    return model


def refitted(model: Transformer, batches: Sequence[Batch]) -> Transformer:
    """A copy of a model with linear maps where feed-forward layers were, one after the other: each
    does what its layer does with what comes to it from the maps before it, as well as it can.
    """
    model = copy.deepcopy(model)
    for name, layer in layers_of(model).items():
        found = seen(model, batches)[name]
        layer.feed_forward = _Imitation(best_linear(found.x, found.y))
    return model


@torch.no_grad()
def _collapse(model: Transformer, inputs: dict[str, Tensor]) -> dict[str, float]:
    from_one, from_float64 = 0.0, 0.0
    for name, layer in layers_of(model).items():
        x, ffn = inputs[name], layer.feed_forward
        y, scale = ffn(x).double(), float(ffn(x).abs().max())
        from_one = max(from_one, float((collapsed(ffn)(x).double() - y).abs().max()) / scale)
        exact = copy.deepcopy(ffn).double()(x.double())
        from_float64 = max(from_float64, float((exact - y).abs().max()) / scale)
    return {"from one matrix": from_one, "from float64": from_float64}


def rank(bench: Bench, seed: int) -> dict[str, Any]:
    """How alike positions are in the encoder's residual stream, from the embedded tokens on.

    "trained": of the base model with all paths, and with some of them taken away, not trained
    again; and of the model that learned without feed-forward layers. "untrained": of a deeper stack
    with all paths, or some of them. Each as `by_depth` has it.
    """
    batches = bench.text.valid.sample(bench.plan.tokens)
    deep = replace(bench.plan, layers=bench.plan.deep)
    vocabulary = len(bench.text.vocabulary)
    trained: dict[str, Any] = {}
    untrained: dict[str, Any] = {}
    for name, steps in PATHS.items():
        model = bench.model(BASE, seed)
        deeper = variant(BASE, deep, vocabulary, seed).build(vocabulary)
        for step in steps:
            step(model)
            step(deeper)
        trained[name], untrained[name] = by_depth(model, batches), by_depth(deeper, batches)
    trained["learned without"] = by_depth(bench.model("none", seed), batches)
    return {"trained": trained, "untrained": untrained}


@torch.no_grad()
def by_depth(model: Transformer, batches: Sequence[Batch]) -> dict[str, list[float]]:
    """Of the encoder's residual stream before each layer and at the end, the means over sentences:
    "distance", from all positions alike, and "sentence_rank", the effective rank.
    """
    streams: list[list[Tensor]] = [[] for _ in range(len(model.encoder.layers) + 1)]
    for batch in batches:
        real = batch.source != PAD
        for depth, x in enumerate(_stream(model, batch.source)):
            streams[depth] += [row[mask] for row, mask in zip(x, real, strict=True)]
    return {
        "distance": [_mean(distance_from_alike, sentences) for sentences in streams],
        "sentence_rank": [_mean(effective_rank, sentences) for sentences in streams],
    }


def _mean(of: Callable[[Tensor], float], sentences: Sequence[Tensor]) -> float:
    return sum(map(of, sentences)) / len(sentences)


def _stream(model: Transformer, source: Tensor) -> list[Tensor]:
    """What goes into each encoder layer, and what comes out of the last."""
    found: list[Tensor] = []
    layers = model.encoder.layers
    hooks = [
        each.register_forward_pre_hook(lambda _, given: found.append(given[0])) for each in layers
    ]
    hooks.append(layers[-1].register_forward_hook(lambda _, given, out: found.append(out)))
    model.encode(source)
    for hook in hooks:
        hook.remove()
    return found


MEASURES = {"linear": linear, "rank": rank}
