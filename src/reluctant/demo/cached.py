"""The second act: the accentor's weights in this library's own Transformer, decoded with a cache.

The package computes all that it has written so far again for every new character. Here each step is
one token, which is what the engine is best at.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import torch

from reluctant.demo.accentor import LENGTH, Accentor, source, written
from reluctant.transformer import Transformer, greedy


class Cached:
    """An accentor that decodes through `Transformer`'s cache.

    It has what `decode` uses of the package's: the call, `clear_cache`, and the output layer.

    Args:
        accentor: its weights are copied; it is untouched.
    """

    def __init__(self, accentor: Accentor) -> None:
        theirs = accentor.model
        transformer: Transformer = Transformer.from_torch(
            theirs.transformer,
            theirs.embed.char_embed,  # of sources and targets
            output=theirs.output_proj,
            positions=theirs.embed.pos_encoding,
        )
        self.accentor = accentor
        self.model = SimpleNamespace(transformer=transformer, output_proj=transformer.linear)

    def clear_cache(self) -> None:
        """Nothing to forget: the keys and values of a text are gone with it."""

    def __call__(self, texts: list[str], batch_size: int) -> list[str]:
        """The texts with stress marks, batch_size of them at a time."""
        answers: list[str] = []
        for i in range(0, len(texts), batch_size):
            ids = torch.cat([source(self.accentor, text) for text in texts[i : i + batch_size]])
            tokens = greedy(self.model.transformer, ids, max_length=LENGTH)
            answers += [written(self.accentor, row.tolist()) for row in tokens]
        return answers


@dataclass(frozen=True)
class SecondAct:
    """What decoding through the cache made of all sentences, beside the package itself.

    Attributes:
        texts: "original", "dense" and "engine" -> the sentences with stress marks.
        seconds: of the same three, in the same run.
        calls: how often the engine went each way, in all layers together, while decoding.
    """

    texts: dict[str, list[str]]
    seconds: dict[str, float]
    calls: dict[str, int]

    @property
    def identical(self) -> bool:
        """Whether the texts are the package's own, with the engine and without."""
        return self.texts["original"] == self.texts["dense"] == self.texts["engine"]

    @property
    def speed_up(self) -> float:
        """How many times as fast as the package itself, with the engine."""
        return self.seconds["original"] / self.seconds["engine"]

    @property
    def engine_adds(self) -> float:
        """How many times as fast with the engine as pinned to dense."""
        return self.seconds["dense"] / self.seconds["engine"]
