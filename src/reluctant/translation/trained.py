"""The translator's backend for a model as `reluctant train` writes it."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.transformer.config import TransformerConfig
from reluctant.transformer.decoding import beam_search, greedy
from reluctant.transformer.io import load
from reluctant.translation.backend import Search
from reluctant.translation.vocabulary import BOS, EOS, PAD, UNK, Vocabulary


def expect_fit(config: TransformerConfig, vocabulary: Vocabulary, name: str) -> None:
    """Raise ReluctantError, with the model's name, if it and its vocabulary do not go together."""
    if (config.pad, config.bos, config.eos) != (PAD, BOS, EOS):
        raise ReluctantError(
            f"expected a model with pad, bos, eos = {PAD}, {BOS}, {EOS} in {name}, got "
            f"{config.pad}, {config.bos}, {config.eos}"
        )
    if not config.source_vocab == config.targets == len(vocabulary):
        raise ReluctantError(
            f"expected a model and a vocabulary of one size in {name}, got "
            f"{config.source_vocab} and {config.targets} tokens in the model, "
            f"{len(vocabulary)} in the vocabulary"
        )


def room(config: TransformerConfig) -> int | None:
    """How many positions the model has a table for; None if it has none and needs none."""
    return None if config.positions == "sinusoidal" else config.max_positions


class Trained:
    """A `Transformer` and its `Vocabulary`, in float32, whatever it is stored in.

    Raises ReluctantError for a folder that does not hold both, or whose two do not fit.
    """

    def __init__(self, folder: Path, *, engine: bool, narrow: bool, longest: int) -> None:
        self.vocabulary, self.model = Vocabulary.load(folder), load(folder).float()
        expect_fit(self.model.config, self.vocabulary, str(folder))
        self.longest = min(longest, room(self.model.config) or longest)
        if engine:
            import reluctant  # noqa: PLC0415  engine=False works without Numba

            reluctant.optimize(self.model, narrow=narrow)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[*ids, EOS] if ids else [] for ids in self.vocabulary.encode(texts)]

    def search(self, sources: Sequence[Sequence[int]], how: Search) -> list[list[list[int]]]:
        source = _padded(sources)
        if how.beam == 1:
            rows = greedy(self.model, source, max_length=how.max_length).tolist()
            return [[_without_padding(row)] for row in rows]
        found = beam_search(
            self.model,
            source,
            beam=how.beam,
            length_penalty=how.length_penalty,
            max_length=how.max_length,
            early_stop=how.best == 1,  # else it may leave others than the best before they end
        )
        best, there = found.tokens[:, : how.best], found.scores[:, : how.best] > -torch.inf
        return [
            [_without_padding(row) for row, is_one in zip(*each, strict=True) if is_one]
            for each in zip(best.tolist(), there.tolist(), strict=True)
        ]

    @torch.no_grad()
    def log_probabilities(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[float]:
        """Among all tokens but padding, which no search chooses."""
        tokens = _padded(targets)
        given = F.pad(tokens[:, :-1], (1, 0), value=BOS)
        hidden = self.model.hidden(given, self.model.start(_padded(sources)))
        # One by one: the logits of all at once would take the most memory of all.
        return [self._log_probability(*each) for each in zip(hidden, tokens, strict=True)]

    def _log_probability(self, hidden: Tensor, tokens: Tensor) -> float:
        """Of tokens (n,) before padding, from what the decoder makes of each prefix, (n, d)."""
        length = int((tokens != PAD).sum())
        logits: Tensor = self.model.linear(hidden[:length])
        logits[:, PAD] = -torch.inf
        return -float(F.cross_entropy(logits, tokens[:length], reduction="sum"))

    def penalty(self, length: int, exponent: float) -> float:
        """Wu et al. 2016, equation 14."""
        return float(((5 + length) / 6) ** exponent)

    def text(self, ids: Sequence[int]) -> str:
        return self.vocabulary.decode([ids])[0]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        return [self.vocabulary.token(id) for id in ids if id > UNK]


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])


def _without_padding(row: list[int]) -> list[int]:
    """Padding is never chosen: it stands behind the end alone."""
    return row[: row.index(PAD)] if PAD in row else row
