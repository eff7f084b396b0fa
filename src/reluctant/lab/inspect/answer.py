"""What a model says to one sequence, and how far another answer is from it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reluctant.lab.inspect.subject import Batch, Item, Subject

ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 3e-3}


@dataclass(frozen=True)
class Answer:
    """text: the translation, or the next token; None for a model without words.

    item: what was read, the answer included. output: logits (length, vocabulary), or vectors
    (length, d_model).
    """

    text: str | None
    item: Item
    output: Tensor


@torch.no_grad()
def answer(subject: Subject, model: nn.Module, source: list[int], most: int) -> Answer:
    """Ask `model`, the subject's or a copy. most: tokens of a translation."""
    item, text = Item(source), None
    if len(subject.stacks) > 1:
        item = Item(source, subject.given(""))
        if subject.answers_itself:
            item = Item(source, subject.answers(model, [source], most)[0])
            text = subject.spoken(item.target)
    output = reread(subject, model, item)
    if len(subject.stacks) == 1:
        text = next_token(subject, output)
    return Answer(text, item, output)


@torch.no_grad()
def reread(subject: Subject, model: nn.Module, item: Item) -> Tensor:
    """What comes out if the model reads this."""
    return subject.output(model, Batch([item], subject.stacks, subject.pad))[0]


def next_token(subject: Subject, output: Tensor) -> str | None:
    """What a language model would go on with."""
    return subject.words.piece(int(output[-1].argmax())) if subject.speaks else None


def change(subject: Subject, before: Tensor, after: Tensor) -> float:
    """How far two outputs are apart.

    With words: the largest change of a probability, of a language model's next token, or at any
    place of a translation. Otherwise 1 - the cosine of the mean vectors; 0 if they are equal.
    """
    if torch.equal(before, after):
        return 0.0
    if subject.speaks:
        if len(subject.stacks) == 1:
            before, after = before[-1:], after[-1:]
        return float((before.float().softmax(-1) - after.float().softmax(-1)).abs().max())
    old, new = before.double().mean(0), after.double().mean(0)
    return max(0.0, 1.0 - float(torch.cosine_similarity(old, new, dim=0)))


def same(before: Tensor, after: Tensor) -> tuple[bool, float]:
    """Whether two outputs are the same but for rounding; the relative size of the difference."""
    if torch.equal(before.isnan(), after.isnan()):  # what is no number in both is the same
        before, after = before[~before.isnan()], after[~after.isnan()]
    if torch.equal(before, after):
        return True, 0.0
    old, new = before.double(), after.double()
    apart = float((old - new).square().mean().sqrt() / old.square().mean().sqrt().clamp(min=1e-30))
    return apart <= ROUNDING.get(before.dtype, 1e-4), apart
