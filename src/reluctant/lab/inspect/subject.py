"""A model that is looked into, and its words: what inspection asks of it, whoever made it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reluctant.lab.inspect.words import Words
from reluctant.lab.placed import Placed

MOST = 512  # tokens of a sequence, however many the model has positions for


class Item(NamedTuple):
    """One sequence. target: what the decoder of an encoder-decoder reads, its begin included; else
    empty. bytes, replaced: of the text that was read for it, as `Text` counts them.
    """

    source: list[int]
    target: list[int] = []  # noqa: RUF012  never changed
    bytes: int = 0
    replaced: int = 0

    @property
    def sides(self) -> tuple[list[int], list[int]]:
        return self.source, self.target


class Batch:
    """Sequences side by side, padded at their ends.

    ids, mask: by stack, (sequences, length), int64 and bool, False at padding. least: what length
    has to be at least, by stack.
    """

    def __init__(
        self,
        items: Sequence[Item],
        stacks: Sequence[str],
        pad: int,
        least: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.ids: dict[str, Tensor] = {}
        self.mask: dict[str, Tensor] = {}
        for side, stack in enumerate(stacks):
            rows = [item.sides[side] for item in items]
            width = max(*map(len, rows), least.get(stack, 0))
            self.ids[stack] = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
            lengths = torch.tensor([[len(row)] for row in rows])
            self.mask[stack] = torch.arange(width) < lengths

    def placed(self) -> dict[str, Placed]:
        return {stack: Placed(ids, self.mask[stack]) for stack, ids in self.ids.items()}


class Subject(ABC):
    """A model, its words, and how the two go together.

    kind: "encoder-decoder", "decoder" (a language model), "encoder", or "other". stacks: the names
    of its parts, each of which reads tokens of its own. longest: most tokens of a sequence. pad:
    the id of padding; batched: whether sequences may be padded. vocabulary: the number of ids.
    head: the output projection, (vocabulary, d_model), or None. apart: why it does not read what
    the layers add up to, or None if it does. speaks: whether its answer is
    words, not vectors; answers_itself: whether it can be asked for whole ones. model: as it was
    given, not served, never changed.
    """

    name: str
    model: nn.Module
    words: Words
    kind: str
    stacks: tuple[str, ...] = ("model",)
    longest: int
    pad: int = 0
    batched: bool = True
    vocabulary: int
    head: Tensor | None = None
    apart: str | None = None
    speaks: bool = False
    answers_itself: bool = False

    @abstractmethod
    def encode(self, text: str, longest: int | None = None) -> list[list[int]]:
        """The ids of a text: sequences of at most `longest` tokens, [] for a blank one."""

    @abstractmethod
    def bare(self, ids: list[int]) -> list[int]:
        """One of those sequences without what says only that it begins and ends."""

    def given(self, text: str) -> list[int]:
        """What the decoder reads of a target."""
        raise NotImplementedError

    @abstractmethod
    def forward(self, model: nn.Module, batch: Batch) -> object:
        """Send a batch through all layers of `model`, which is this one or a copy of it."""

    @abstractmethod
    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits (sequences, length, vocabulary), or vectors (sequences, length, d_model)."""

    def complete(self, model: nn.Module, batch: Batch) -> object:
        """All that the model computes for a batch, its output projection included."""
        return self.output(model, batch)

    def prepared(self, model: nn.Module) -> nn.Module:
        """A copy that is going to answer, with engines in it if that is faster."""
        return model

    def answers(
        self, model: nn.Module, sources: Sequence[list[int]], most: int | None = None
    ) -> list[list[int]]:
        """What the decoder reads while it says its greedy answer to each source.

        most: tokens of an answer; None: 50 more than its source has. With its begin it has no
        more than `longest`.
        """
        raise NotImplementedError

    def spoken(self, ids: Sequence[int]) -> str:
        """An answer as text, without what only says that it begins."""
        return self.words.text(ids[1:]).strip()

    def stack_of(self, layer: str) -> str:
        """Which of the stacks a layer of this name is in: the first that its path goes through.
        What a decoder is made of may be called an encoder, as in BERT.
        """
        parts = layer.split(".")
        return next((part for part in parts if part in self.stacks), self.stacks[0])

    def cut(self, ids: list[int], longest: int) -> list[list[int]]:
        """Pieces of at most so many ids."""
        return [ids[at : at + longest] for at in range(0, len(ids), longest)]
