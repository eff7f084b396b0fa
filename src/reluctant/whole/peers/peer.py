"""What a peer is given, and what it gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class UnfitError(Exception):
    """This peer does not take this model; says why."""


@dataclass(frozen=True)
class Work:
    """A model, and what it is to continue.

    model: untouched, float32, of transformers; only shared, never changed. prompts: token ids
    (1, n) each. beams, new: how it is decoded, and how many tokens. folder: a place for files.
    tokenizer: of the model, or None.
    """

    model: Any
    prompts: Sequence[Tensor]
    beams: int
    new: int
    folder: Path
    tokenizer: Any = None

    @property
    def size(self) -> int:
        """Bytes of the model's weights in float32."""
        return sum(int(weight.numel()) * 4 for weight in self.model.parameters())

    @property
    def read(self) -> float:
        """Share of the weights that one token has to read: without the encoder, and without
        embeddings, of which it takes a row, unless the output projection is the same matrix."""
        model = self.model
        weights = {id(weight): weight for weight in model.parameters()}
        aside = list[nn.Module]()
        if model.config.is_encoder_decoder:
            aside.append(model.get_encoder())
        aside += [module for module in model.modules() if isinstance(module, nn.Embedding)]
        unread = {id(weight) for module in aside for weight in module.parameters()}
        head = model.get_output_embeddings()
        unread -= {id(weight) for weight in head.parameters()} if head is not None else set()
        read = sum(int(w.numel()) for key, w in weights.items() if key not in unread)
        return read * 4 / self.size


@dataclass
class Peer:
    """One way of continuing.

    write: prompt (1, n) -> ids of the new tokens. held: bytes of its weights. added: bytes besides,
    asked for after the work. close: gives back what does not go away by itself.
    """

    write: Callable[[Tensor], list[int]]
    held: int
    added: Callable[[], int] = field(default=lambda: 0)
    close: Callable[[], object] = field(default=lambda: None)


def end_of(model: Any) -> list[int]:
    """Ids that end a text, which are forbidden here: every way writes as many tokens."""
    end = model.generation_config.eos_token_id
    if end is None:
        return []
    return [int(each) for each in (end if isinstance(end, list) else [end])]


def threads() -> int:
    """As many as torch uses."""
    return torch.get_num_threads()
