"""One model learns: its curve, and its weights at the end."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from reluctant.errors import ReluctantError
from reluctant.lab.study.catalogue import Alter, Variant
from reluctant.lab.study.text import Text
from reluctant.transformer.model import Transformer
from reluctant.translation.batches import Batch, Batches
from reluctant.translation.learner import Learner
from reluctant.translation.objective import Objective
from reluctant.translation.ranks import Ranks
from reluctant.translation.vocabulary import PAD


class Stopped(Exception):  # noqa: N818  not an error: somebody pressed Ctrl-C
    """Work was given up because it was asked to."""


class _Altered(Ranks):
    """One process whose model is changed before its optimizer sees it."""

    def __init__(self, alter: Alter) -> None:
        self._alter = alter

    def divided(self, model: Transformer) -> Transformer:
        self._alter(model)
        return model.train()


def learner(variant: Variant, vocabulary: int) -> Learner:
    """What trains this variant: plain torch, of `reluctant train`."""
    return Learner(variant.settings, vocabulary, _Altered(variant.alter))


def learn(
    variant: Variant, text: Text, points: int, on_step: Callable[[int, float], object]
) -> tuple[Transformer, dict[str, Any]]:
    """Train a model, and say how it went.

    points: how often the validation loss is taken, at even distances, the last one at the end.
    on_step: told each step's number and training loss; may raise Stopped.

    Gives the model and {"parameters", "d_model", "d_ff", "curve": [{"step", "loss"}], "loss",
    "diverged"}: losses are of the held-out text, in nats a token. diverged: the step whose loss or
    gradient was not finite, if one was; training ended there, and loss is None.
    """
    settings = variant.settings
    learning = learner(variant, len(text.vocabulary))
    batches = endless(text.train.batches(settings.batch_tokens, settings.seed))
    held_out = text.validation()
    curve = []
    diverged: int | None = None
    for step in range(1, settings.steps + 1):
        try:
            found = learning.step(step, [next(batches)])
        except ReluctantError:
            diverged = step
            break
        on_step(step, found.loss)
        if step * points // settings.steps > (step - 1) * points // settings.steps:
            curve.append({"step": step, "loss": loss(learning.model, held_out)})
    model = learning.model.eval()
    count = sum(parameter.numel() for parameter in model.parameters())
    sizes = {"parameters": count, "d_model": settings.d_model, "d_ff": settings.d_ff}
    last = None if diverged else curve[-1]["loss"]
    return model, {**sizes, "curve": curve, "loss": last, "diverged": diverged}


def endless(batches: Batches) -> Iterator[Batch]:
    """Epoch after epoch."""
    epoch = 0
    while True:
        for indices in batches.epoch(epoch):
            yield batches.collate(indices)
        epoch += 1


@torch.no_grad()
def loss(model: Transformer, batches: Sequence[Batch]) -> float:
    """The negative log-likelihood of a target's token in nats, the mean over the batches."""
    learning = model.training
    objective = Objective(model).eval()
    nats = sum(float(objective(batch)) for batch in batches)
    model.train(learning)
    return nats / sum(int((batch.labels != PAD).sum()) for batch in batches)
