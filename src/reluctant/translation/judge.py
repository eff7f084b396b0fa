"""How good weights are: their loss on held-out text, and translations beside their references."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from reluctant.transformer.config import TransformerConfig
from reluctant.transformer.decoding import greedy
from reluctant.transformer.model import Transformer
from reluctant.translation.batches import Batch, Batches
from reluctant.translation.objective import Objective
from reluctant.translation.settings import Settings
from reluctant.translation.vocabulary import PAD, Vocabulary

TOKENS = 4096  # of a batch


class Judge:
    """A model of its own, which is lent the weights that are to be judged.

    So the one that learns stays as it is, however it is divided among ranks.
    """

    def __init__(self, config: TransformerConfig, vocabulary: Vocabulary, settings: Settings):
        self.vocabulary, self.device = vocabulary, settings.device
        self.autocast = settings.autocast
        with torch.random.fork_rng(devices=[]):
            self.model = Transformer(config).eval()
        if settings.engine:
            import reluctant  # noqa: PLC0415  --no-engine works without Numba

            reluctant.optimize(self.model)
        self.model.to(self.device)

    def lend(self, weights: Mapping[str, Tensor]) -> None:
        """Judge these from here on: all parameters, each under one of its names."""
        named = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(weights[name])

    @torch.no_grad()
    def loss(self, batches: Sequence[Batch]) -> float:
        """The negative log-likelihood of a target's token in nats, the mean over the batches."""
        nats, tokens, objective = 0.0, 0, Objective(self.model).eval()
        kind = torch.device(self.device).type
        cast = torch.autocast(kind, torch.bfloat16) if self.autocast else nullcontext()
        with cast:
            for batch in batches:
                nats += objective(Batch(*(t.to(self.device) for t in batch))).item()
                tokens += int((batch.labels != PAD).sum())
        return nats / max(tokens, 1)

    def translated(self, sentences: Sequence[str]) -> list[str]:
        """Greedily, sentences of like length together."""
        ids = self.vocabulary.encode(sentences)
        batches, texts = Batches(ids, ids, TOKENS, 0), [""] * len(sentences)
        for indices in batches.in_order():
            tokens = greedy(self.model, batches.collate(indices).source.to(self.device))
            for i, text in zip(indices, self.vocabulary.decode(tokens.tolist()), strict=True):
                texts[i] = text
        return texts
