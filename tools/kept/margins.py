"""How sure a model is of its greedy translations: where it hardly is, rounding could decide."""

from collections.abc import Sequence

import torch
from torch import Tensor

from reluctant.transformer.model import Transformer


@torch.no_grad()
def margins(
    model: Transformer, sources: Sequence[Tensor], targets: Sequence[Tensor]
) -> list[float]:
    """Of each translation the smallest lead of a chosen token's logit over the next one's.

    model: in float64, eval mode. sources: ids (1, m) with the end token. targets: ids (n,) as
    `greedy` gives them, without what stands after the end token.
    """
    found = []
    for source, target in zip(sources, targets, strict=True):
        begun = torch.cat([target.new_tensor([model.config.bos]), target[:-1]])[None]
        logits = model(source, begun)[0]
        if model.config.pad is not None:
            logits[:, model.config.pad] = -torch.inf
        best = logits.topk(2, -1)
        assert torch.equal(best.indices[:, 0], target), "expected the greedy translation"
        found.append(float((best.values[:, 0] - best.values[:, 1]).min()))
    return found
