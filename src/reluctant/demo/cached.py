"""The accentor's weights in this library's own Transformer, decoded with a cache.

The package computes all that it has written so far again for every new character. Here each step is
one token, which is what the engine is best at.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from reluctant.demo.accentor import LENGTH, Accentor, source, target, written
from reluctant.transformer import Transformer, greedy


class Cached:
    """An accentor that decodes through `Transformer`'s cache; called as the package's own is.

    Args:
        accentor: its weights are copied; it is untouched.
    """

    def __init__(self, accentor: Accentor) -> None:
        theirs = accentor.model
        self.accentor = accentor
        self.transformer: Transformer = Transformer.from_torch(
            theirs.transformer,
            theirs.embed.char_embed,  # of sources and targets
            output=theirs.output_proj,
            positions=theirs.embed.pos_encoding,
        )

    def clear_cache(self) -> None:
        """Nothing to forget: the keys and values of a text are gone with it."""

    def __call__(self, texts: Sequence[str], batch_size: int) -> list[str]:
        """The texts with stress marks, batch_size of them at a time."""
        answers: list[str] = []
        for i in range(0, len(texts), batch_size):
            ids = torch.cat([source(self.accentor, text) for text in texts[i : i + batch_size]])
            tokens = greedy(self.transformer, ids, max_length=LENGTH)
            answers += [written(self.accentor, row.tolist()) for row in tokens]
        return answers

    @torch.no_grad()
    def scores(self, text: str, answer: str) -> Tensor:
        """Logits (1, characters of the answer + 1, vocabulary) of every step to that answer."""
        given = source(self.accentor, text), target(self.accentor, answer)
        logits: Tensor = self.transformer(*given)
        return logits
