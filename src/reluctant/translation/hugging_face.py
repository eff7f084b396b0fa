"""The translator's backend for an encoder-decoder of Hugging Face."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.translation.backend import Search
from reluctant.translation.languages import listed, needs_target, some_of, spoken
from reluctant.whole.load import load

_MORE = 50  # tokens that a translation may have above its source, as our own decoding has it


class HuggingFace:
    """A model with `generate` and its tokenizer, in float32.

    languages: codes of source and target, as the tokenizer calls them, or None. A tokenizer of many
        languages (M2M100, NLLB, mBART) needs that of the target, and takes its own default for the
        source. For a model such as T5, whose config has prefixes, they choose one of these.

    Raises ReluctantError for a folder without such a model or a tokenizer, for code of its own
    unless trust_remote_code is given, and for languages that are missing or unknown.
    """

    def __init__(
        self,
        folder: Path,
        *,
        engine: bool,
        narrow: bool,
        longest: int,
        trust_remote_code: bool,
        languages: tuple[str | None, str | None],
    ) -> None:
        loaded: Any = load(str(folder.resolve()), trust_remote_code=trust_remote_code)
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self._expect_translator(folder)
        self._settings = self.model.generation_config
        self._settings.max_length = None  # each call says it
        self._prefix, self._forced = spoken(self.model, self.tokenizer, *languages)
        if self._forced is None and needs_target(self.model, self.tokenizer):
            raise ReluctantError(
                f"expected a target_lang for a model of many languages: "
                f"{some_of(self.tokenizer)}; got none: say --target-lang"
            )
        self._ends = listed(self._settings.eos_token_id)
        pads = [self._settings.pad_token_id, self.tokenizer.pad_token_id, *self._ends]
        self._pad = next((id for id in pads if id is not None), 0)  # masked: any would do
        room: int | None = getattr(self.model.config, "max_position_embeddings", None)
        self._room = room or 2**31
        self.longest = min(longest, self._room, self.tokenizer.model_max_length)
        self._generate = self.model.generate
        if engine:
            import reluctant  # noqa: PLC0415  engine=False works without Numba

            reluctant.optimize(self.model, narrow=narrow)
            self._generate = lambda ids, **kw: reluctant.generate(self.model, ids, **kw)

    def _expect_translator(self, folder: Path) -> None:
        config: Any = getattr(self.model, "config", None)
        can_generate = getattr(self.model, "can_generate", lambda: False)
        if not (can_generate() and config.is_encoder_decoder):
            raise ReluctantError(
                f"expected an encoder-decoder that generates text in {folder}, such as Marian, "
                f"M2M100, BART or T5; got a {type(self.model).__name__}"
            )
        if self.tokenizer is None:
            raise ReluctantError(
                f"expected a tokenizer beside the model in {folder}, got none: save it there, too"
            )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._encoded(text) if text.strip() else [] for text in texts]

    def _encoded(self, text: str) -> list[int]:
        # quiet: what is too long for the model is dealt with by the translator
        ids: list[int] = self.tokenizer(self._prefix + text, verbose=False)["input_ids"]
        return ids

    def search(self, sources: Sequence[Sequence[int]], how: Search) -> list[list[list[int]]]:
        ids, mask = self._padded(sources)
        limits = [how.max_length or min(len(source) + _MORE, self._room) for source in sources]
        if max(limits) > self._room:
            raise ReluctantError(
                f"max_length: expected at most {self._room}, the model's positions, got "
                f"{how.max_length}"
            )
        options: dict[str, Any] = {"num_beams": how.beam, "num_return_sequences": how.best}
        if how.beam > 1:
            options["length_penalty"] = how.length_penalty
        if self._forced is not None:
            options["forced_bos_token_id"] = self._forced
        rows = self._generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=max(limits),
            return_dict_in_generate=False,
            **options,
        ).tolist()
        targets = [self._ended(row) for row in rows]
        if how.beam == 1:  # each goes as far as it would alone; beams may go as far as the longest
            return [[self._cut(*each)] for each in zip(targets, limits, strict=True)]
        return [targets[i : i + how.best] for i in range(0, len(rows), how.best)]

    def _cut(self, target: list[int], limit: int) -> list[int]:
        """At its limit, and there with the end that the model may want."""
        if len(target) <= limit:
            return target
        forced = listed(self._settings.forced_eos_token_id)[:1]
        return [*target[: limit - len(forced)], *forced]

    def _ended(self, row: list[int]) -> list[int]:
        """Without the token that the decoder starts with, and what stands after the end."""
        target = row[1:]
        for place, id in enumerate(target):
            if id in self._ends:
                return target[: place + 1]
        while target and target[-1] == self._pad:
            target.pop()
        return target

    @torch.no_grad()
    def log_probabilities(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[float]:
        """As the model has them, before what `generate` does to logits; a first token that is
        forced, such as a language, costs nothing.
        """
        # One by one: with a quarter of a million words the logits of a batch take gigabytes.
        return [self._log_probability(*each) for each in zip(sources, targets, strict=True)]

    def _log_probability(self, source: Sequence[int], target: Sequence[int]) -> float:
        ids, mask = self._padded([source])
        start = self._settings.decoder_start_token_id
        start = self._settings.bos_token_id if start is None else start
        given = torch.tensor([[start, *target[:-1]]])
        logits = self.model(input_ids=ids, attention_mask=mask, decoder_input_ids=given).logits[0]
        forced = self._forced is not None or self._settings.forced_bos_token_id is not None
        first = 1 if forced else 0
        wanted = torch.tensor(target[first:], dtype=torch.int64)
        return -float(F.cross_entropy(logits[first : len(target)], wanted, reduction="sum"))

    def penalty(self, length: int, exponent: float) -> float:
        """As in transformers, where the score is log P / length ** length_penalty."""
        return float(length**exponent)

    def text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def tokens(self, ids: Sequence[int]) -> list[str]:
        special = set(self.tokenizer.all_special_ids)
        names: list[str] = self.tokenizer.convert_ids_to_tokens(
            [id for id in ids if id not in special]
        )
        return names

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask, padded at the end, as M2M100's positions want it."""
        width = max(map(len, rows))
        ids = [[*row, *[self._pad] * (width - len(row))] for row in rows]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        return torch.tensor(ids), torch.tensor(mask)
