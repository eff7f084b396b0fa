"""How far logits are apart: from each other, and from the truth.

Two float32 evaluations of a deep model differ by their rounding, however true each of them is. What
can be asked of the engine is that it is as near to float64 as the untouched model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reluctant.demo.accentor import Accentor, teacher_forced


@dataclass(frozen=True)
class Error:
    """Distance of all logits from those of the same model in float64."""

    rms: float
    largest: float


@dataclass(frozen=True)
class Forced:
    """Logits of all positions of all answers, both ways and in float64.

    Attributes:
        eager: error of the untouched model.
        engine: error of the one with the engine.
        apart: largest absolute difference of any two logits of the two.
        scale: largest absolute logit.
    """

    eager: Error
    engine: Error
    apart: float
    scale: float


def compare(
    eager: Accentor,
    engine: Accentor,
    exact: Accentor,
    texts: Sequence[str],
    answers: Sequence[str],
) -> Forced:
    """Give all three the same answers to score, and compare their logits.

    Args:
        eager: untouched, float32.
        engine: with the engine, float32.
        exact: the same model in float64.
        texts: the sentences.
        answers: what the untouched model made of them.
    """
    with torch.no_grad():
        mine, theirs, truth = (
            torch.cat(
                [
                    teacher_forced(accentor, text, answer).double().flatten()
                    for text, answer in zip(texts, answers, strict=True)
                ]
            )
            for accentor in (engine, eager, exact)
        )
    return Forced(
        eager=_error(theirs, truth),
        engine=_error(mine, truth),
        apart=float((mine - theirs).abs().max()),
        scale=float(truth.abs().max()),
    )


def largest_difference(one: Sequence[Sequence[Tensor]], other: Sequence[Sequence[Tensor]]) -> float:
    """Largest absolute difference of any two logits of the same step on the same input.

    Steps are compared up to the first one at which a batch's answers part: what follows has
    different inputs. NaN where a logit is NaN on one side.

    Args:
        one: for each batch, for each step, logits (sentences, vocabulary).
        other: likewise.

    >>> a, b = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 1.0]])
    >>> largest_difference([[a, a]], [[a, b]])
    0.25
    """
    differences = [torch.zeros(())]
    for ours, theirs in zip(one, other, strict=True):
        for a, b in zip(ours, theirs, strict=False):
            differences.append((a - b).abs().max())
            if not torch.equal(a.argmax(-1), b.argmax(-1)):
                break
    return float(torch.stack(differences).max())


def _error(logits: Tensor, truth: Tensor) -> Error:
    difference = (logits - truth).abs()
    return Error(rms=float(difference.square().mean().sqrt()), largest=float(difference.max()))
