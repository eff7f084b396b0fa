"""How the layer is applied: to every position by itself, and another layer in each place."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.lab.study.bench import Bench
from reluctant.lab.study.catalogue import BASE
from reluctant.lab.study.plan import Plan
from reluctant.lab.study.seen import seen
from reluctant.lab.study.text import Side
from reluctant.lab.study.variants import layers_of
from reluctant.transformer.model import Transformer
from reluctant.translation.vocabulary import EOS

ROWS = 16  # tokens: as many as the kernel for few tokens takes at a time


def models(plan: Plan) -> tuple[str, ...]:
    """The models that this experiment trains."""
    return (BASE, "shared", "shared-encoder")


@torch.no_grad()
def positions(bench: Bench, seed: int) -> dict[str, Any]:
    """Whether positions know of each other in trained feed-forward layers, on real tokens.

    "layers": by layer, "permuted" (positions change places, and their outputs back again) and
    "alone" (each position by itself), compared with all positions together: "bits_permuted",
    "bits_alone": whether the engine, its way pinned, gives the same bits; "plain_permuted",
    "plain_alone": in plain torch, the largest difference over the largest output.

    "attention": for comparison, the encoder's attention, a layer in which positions do know of each
    other, on one sentence of so many "tokens"; "alone": by layer, the difference as above.
    """
    import reluctant  # noqa: PLC0415  needs Numba

    model = bench.model(BASE, seed)
    layers = seen(model, bench.text.valid.sample(bench.plan.tokens))
    found = {}
    for name, layer in layers_of(model).items():
        x, plain = layers[name].x[:ROWS], layer.feed_forward
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        pinned = copy.deepcopy(plain)
        reluctant.optimize(pinned, way="few")
        y, exact = plain(x), pinned(x)
        found[name] = {
            "bits_permuted": torch.equal(_permuted(pinned, x, order), exact),
            "bits_alone": torch.equal(_alone(pinned, x), exact),
            "plain_permuted": _difference(_permuted(plain, x, order), y),
            "plain_alone": _difference(_alone(plain, x), y),
        }
    source = sentence(bench.text.valid)
    attention = {"tokens": source.shape[1], "alone": attention_alone(model, source)}
    return {"layers": found, "attention": attention}


def sentence(side: Side) -> Tensor:
    """A source (1, n), its end among its tokens, of as nearly ROWS of them as there is."""
    lengths = [len(ids) + 1 for ids in side.sources]
    index = min(range(len(lengths)), key=lambda i: abs(lengths[i] - ROWS))
    return torch.tensor([[*side.sources[index], EOS]])


@torch.no_grad()
def attention_alone(model: Transformer, source: Tensor) -> dict[str, float]:
    """By encoder layer: how much outputs of its attention differ when each position of a sentence
    is alone, over the largest output. source: (1, n), without padding.
    """
    found = {}
    for name, attention, x in attention_inputs(model, source):
        together = attention(x, x)[0]
        apart = torch.cat([attention(row[None, None], row[None, None])[0] for row in x[0]])
        found[name] = _difference(apart, together)
    return found


def attention_inputs(model: Transformer, source: Tensor) -> list[tuple[str, nn.Module, Tensor]]:
    """Each encoder layer's name, its attention, and what goes into that (b, n, d_model), of source
    (b, n).
    """
    inputs: list[Tensor] = []
    layers = {k: each for k, each in layers_of(model).items() if k.startswith("encoder")}
    attentions = [layer.multi_head_attention for layer in layers.values()]
    hooks = [
        each.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        for each in attentions
    ]
    model.encode(source)
    for hook in hooks:
        hook.remove()
    return list(zip(layers, attentions, inputs, strict=True))


def _permuted(layer: Any, x: Tensor, order: Tensor) -> Tensor:
    return torch.empty_like(x).index_copy(0, order, layer(x[order]))


def _alone(layer: Any, x: Tensor) -> Tensor:
    return torch.cat([layer(row[None]) for row in x])


def _difference(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


MEASURES = {"positions": positions}
