"""Our own Transformer and its vocabulary, as inspection asks for them."""

from collections.abc import Sequence

from torch import Tensor, nn

import reluctant
from reluctant.lab.inspect.subject import Batch, Item, Subject
from reluctant.lab.inspect.words import Words
from reluctant.transformer.decoding import greedy
from reluctant.transformer.model import Transformer
from reluctant.translation.trained import expect_fit, room
from reluctant.translation.vocabulary import BOS, EOS, PAD, Vocabulary


class Ours(Subject):
    """An encoder-decoder as `reluctant train` writes it.

    longest: most tokens of a sequence. Raises ReluctantError if the two do not fit together.
    """

    kind = "encoder-decoder"
    stacks = ("encoder", "decoder")
    pad = PAD
    speaks = answers_itself = True

    def __init__(self, name: str, model: Transformer, vocabulary: Vocabulary, longest: int) -> None:
        expect_fit(model.config, vocabulary, name)
        self.name, self.model, self._vocabulary = name, model, vocabulary
        self.words, self.vocabulary = Words.of_vocabulary(vocabulary), len(vocabulary)
        self.longest = min(longest, room(model.config) or longest)
        self.head = model.linear.weight.detach()

    def encode(self, text: str, longest: int | None = None) -> list[list[int]]:
        ids = self._vocabulary.encode([text])[0]
        longest = min(longest or self.longest, self.longest)
        return [[*piece, EOS] for piece in self.cut(ids, longest - 1)]

    def bare(self, ids: list[int]) -> list[int]:
        return ids[:-1]

    def given(self, text: str) -> list[int]:
        return [BOS, *self._vocabulary.encode([text])[0]][: self.longest]

    def forward(self, model: nn.Module, batch: Batch) -> object:
        assert isinstance(model, Transformer)
        return model.hidden(batch.ids["decoder"], model.start(batch.ids["encoder"]))

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        logits: Tensor = model(batch.ids["encoder"], batch.ids["decoder"])
        return logits

    def prepared(self, model: nn.Module) -> nn.Module:
        reluctant.optimize(model)
        return model

    def answers(
        self, model: nn.Module, sources: Sequence[list[int]], most: int | None = None
    ) -> list[list[int]]:
        assert isinstance(model, Transformer)
        if most is not None:
            most = min(most, self.longest)
        source = Batch([Item(ids) for ids in sources], ("encoder",), PAD).ids["encoder"]
        rows = greedy(model, source, max_length=most).tolist()
        answers = [[BOS, *(id for id in row if id not in (PAD, EOS))] for row in rows]
        return [answer[: self.longest] for answer in answers]

    def spoken(self, ids: Sequence[int]) -> str:
        return self._vocabulary.decode([ids])[0]
