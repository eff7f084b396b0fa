"""How far logits are from the truth.

Two float32 evaluations of a deep model differ by their rounding, however true each of them is. What
can be asked of the engine is that it is as near to float64 as the same model without it.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from reluctant.demo.cached import Cached


@dataclass(frozen=True)
class Error:
    """Distance of all logits from those of the same model in float64."""

    rms: float
    largest: float


@dataclass(frozen=True)
class Forced:
    """Errors of all logits of all positions, both models given the same answers to score."""

    cached: Error
    engine: Error


def compare(cached: Cached, engine: Cached, texts: Sequence[str], answers: Sequence[str]) -> Forced:
    """Compare both with float64. cached: without the engine."""
    exact = Cached(cached.accentor)
    exact.transformer = deepcopy(cached.transformer).double()
    theirs, mine, truth = (
        torch.cat(
            [
                each.scores(text, answer).double().flatten()
                for text, answer in zip(texts, answers, strict=True)
            ]
        )
        for each in (cached, engine, exact)
    )
    return Forced(cached=_error(theirs, truth), engine=_error(mine, truth))


def _error(logits: Tensor, truth: Tensor) -> Error:
    difference = (logits - truth).abs()
    return Error(rms=float(difference.square().mean().sqrt()), largest=float(difference.max()))
