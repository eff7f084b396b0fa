"""How the layer is applied: to every position by itself, and another layer in each place."""

import copy
from typing import Any

import torch
from torch import Tensor

from reluctant.lab.study.bench import Bench
from reluctant.lab.study.catalogue import BASE
from reluctant.lab.study.plan import Plan
from reluctant.lab.study.seen import seen
from reluctant.lab.study.variants import layers_of

ROWS = 16  # tokens: as many as the kernel for few tokens takes at a time


def models(plan: Plan) -> tuple[str, ...]:
    """The models that this experiment trains."""
    return (BASE, "shared", "shared-encoder")


@torch.no_grad()
def positions(bench: Bench, seed: int) -> dict[str, Any]:
    """Whether positions know of each other in trained feed-forward layers, on real tokens.

    By layer, "permuted" (positions change places, and their outputs back again) and "alone" (each
    position by itself), compared with all positions together: "bits_permuted", "bits_alone":
    whether the engine, its way pinned, gives the same bits; "plain_permuted", "plain_alone": in
    plain torch, the largest difference over the largest output. And, for comparison,
    "attention_alone": the same of the encoder's attention, a layer in which positions do know of
    each other.
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
        if name.startswith("encoder"):
            attention = layer.multi_head_attention
            together = attention(x[None], x[None])[0]
            apart = torch.cat([attention(row[None, None], row[None, None])[0] for row in x])
            found[name]["attention_alone"] = _difference(apart, together)
    return {"layers": found}


def _permuted(layer: Any, x: Tensor, order: Tensor) -> Tensor:
    return torch.empty_like(x).index_copy(0, order, layer(x[order]))


def _alone(layer: Any, x: Tensor) -> Tensor:
    return torch.cat([layer(row[None]) for row in x])


def _difference(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


MEASURES = {"positions": positions}
