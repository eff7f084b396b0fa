"""Models of transformers with their tokenizers, as inspection asks for them."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import reluctant
from reluctant.errors import ReluctantError
from reluctant.lab.inspect.head import embeddings, last_of, weight_of
from reluctant.lab.inspect.subject import MOST, Batch, Item, Subject
from reluctant.lab.inspect.words import Words
from reluctant.surgery.swap import head_seat_of
from reluctant.translation.languages import listed, needs_target, spoken
from reluctant.whole.load import one_line

_MORE = 50  # tokens that an answer may have above its source


class Tokenized(Subject):
    """What all of them share: sequences with their special tokens, cut at the model's length."""

    def __init__(self, name: str, model: nn.Module, tokenizer: Any) -> None:
        self.name, self.model, self._tokenizer = name, model, tokenizer
        self.words = Words.of_tokenizer(tokenizer)
        config: Any = getattr(model, "config", None)
        pads = getattr(config, "pad_token_id", None), getattr(tokenizer, "pad_token_id", None)
        # an id that was added to the tokenizer alone has no row in the model's table
        rows: int = getattr(embeddings(model, "input"), "num_embeddings", 2**31)
        self.pad = next((id for id in pads if isinstance(id, int) and 0 <= id < rows), 0)
        self.longest = min(MOST, int(tokenizer.model_max_length), _room(model))
        self._begin, self._end = _around(self._ids)
        if self.longest <= len(self._begin) + len(self._end):
            raise ReluctantError(
                f"expected a model with room for a token, {name} has {self.longest} positions"
            )
        self.vocabulary, self.head = _vocabulary(model, len(tokenizer)), weight_of(model)

    def _ids(self, text: str, special: bool) -> list[int]:
        try:
            # quiet: what is too long for the model is cut here
            found = self._tokenizer(text, add_special_tokens=special, verbose=False)
            ids: list[int] = found["input_ids"]
        except Exception as error:  # whatever a tokenizer raises
            raise ReluctantError(
                f"the tokenizer of {self.name} fails ({one_line(error)})"
            ) from error
        return ids

    def encode(self, text: str, longest: int | None = None) -> list[list[int]]:
        room = min(longest or self.longest, self.longest) - len(self._begin) - len(self._end)
        pieces = self.cut(self._ids(text, False), max(room, 1))
        return [[*self._begin, *piece, *self._end] for piece in pieces]

    def bare(self, ids: list[int]) -> list[int]:
        return ids[len(self._begin) : len(ids) - len(self._end)]

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        if not self.speaks:
            return last_of(self.forward(model, batch))
        result: Any = self.complete(model, batch)
        logits: Tensor = result.logits
        return logits

    def complete(self, model: nn.Module, batch: Batch) -> Any:
        return model(**self._inputs(batch))

    def forward(self, model: nn.Module, batch: Batch) -> object:
        # without the output projection, whose result nobody looks at
        base: Any = getattr(model, "base_model", model)
        return base(**self._inputs(batch))

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        first = self.stacks[0]
        return {"input_ids": batch.ids[first], "attention_mask": batch.mask[first].long()}


class OneStack(Tokenized):
    """A language model (kind "decoder"), or one that makes vectors of texts ("encoder")."""

    def __init__(self, name: str, model: nn.Module, tokenizer: Any) -> None:
        super().__init__(name, model, tokenizer)
        writes = getattr(model, "can_generate", lambda: False)
        self.speaks = bool(writes()) and self.head is not None
        self.kind = "decoder" if self.speaks or _only_decodes(model) else "encoder"


class Other(Tokenized):
    """Any module that is called with token ids (sequences, length); one sequence at a time."""

    kind, batched = "other", False

    def forward(self, model: nn.Module, batch: Batch) -> object:
        return model(batch.ids["model"])

    def complete(self, model: nn.Module, batch: Batch) -> object:
        return self.forward(model, batch)


class TwoStacks(Tokenized):
    """An encoder-decoder. languages: codes of source and target, for models of many of them."""

    kind, stacks = "encoder-decoder", ("encoder", "decoder")

    def __init__(
        self,
        name: str,
        model: nn.Module,
        tokenizer: Any,
        languages: tuple[str | None, str | None] = (None, None),
    ) -> None:
        if hasattr(tokenizer, "src_lang"):  # the user's own stays set to its languages
            tokenizer = copy.deepcopy(tokenizer)
        prefix, self._forced = spoken(model, tokenizer, *languages)
        super().__init__(name, model, tokenizer)
        self._begin += self._ids(prefix, False) if prefix else []
        config: Any = model.config
        settings: Any = getattr(model, "generation_config", config)
        self.speaks = bool(model.can_generate())  # type: ignore[operator]
        self._ends = listed(_either("eos_token_id", settings, config))
        starts = [
            *listed(_either("decoder_start_token_id", settings, config)),
            *listed(_either("bos_token_id", settings, config)),
        ]
        if not starts:
            raise ReluctantError(
                f"expected a decoder_start_token_id in the config of {name}, got none"
            )
        self._start = starts[0]
        self._untold = self._forced is None and needs_target(model, tokenizer)
        self.answers_itself = self.speaks and not self._untold

    def given(self, text: str) -> list[int]:
        labels = list(self._tokenizer(text_target=text, verbose=False)["input_ids"])
        ends = self._ends or self._end
        if not any(id in ends for id in labels):
            labels += ends[:1]
        model: Any = self.model
        shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
        if shift is not None and model.config.pad_token_id is not None and ends:
            ids: list[int] = shift(torch.tensor([labels]))[0].tolist()  # as it was trained
            return ids[: self.longest]
        ids = [self._start, *labels]
        while len(ids) > 1 and ids[-1] in ends:
            ids.pop()
        return ids[: self.longest]

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        return super()._inputs(batch) | {"decoder_input_ids": batch.ids["decoder"]}

    def prepared(self, model: nn.Module) -> nn.Module:
        settings: Any = model.generation_config
        settings.max_length = None  # each call says it
        reluctant.optimize(model)
        return model

    def answers(
        self, model: nn.Module, sources: Sequence[list[int]], most: int | None = None
    ) -> list[list[int]]:
        if not self.speaks:
            raise ReluctantError(
                f"{self.name} has no output projection to translate with: give --target"
            )
        if self._untold:
            raise ReluctantError(
                f"expected a target language for {self.name}, which has many; got none: say "
                "--target-lang, or give --target"
            )
        batch = Batch([Item(ids) for ids in sources], ("encoder",), self.pad)
        # with its begin an answer is a sequence, too
        limits = [min(most or len(ids) + _MORE, self.longest - 1) for ids in sources]
        options: dict[str, Any] = {"do_sample": False, "num_beams": 1}
        if self._forced is not None:
            options["forced_bos_token_id"] = self._forced
        generate: Any = (
            partial(reluctant.generate, model) if head_seat_of(model) else model.generate
        )
        rows = generate(
            batch.ids["encoder"],
            attention_mask=batch.mask["encoder"].long(),
            max_new_tokens=max(limits),
            return_dict_in_generate=False,
            **options,
        ).tolist()
        return [self._read(row[: limit + 1]) for row, limit in zip(rows, limits, strict=True)]

    def _read(self, row: list[int]) -> list[int]:
        """Up to the end, which is not read."""
        for place, id in enumerate(row[1:], 1):
            if id in self._ends:
                return row[:place]
        while len(row) > 1 and row[-1] == self.pad:
            row.pop()
        return row

    def spoken(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def _around(ids: Callable[[str, bool], list[int]]) -> tuple[list[int], list[int]]:
    """The special tokens before a text and after it."""
    bare, full = ids("a", False), ids("a", True)
    for at in range(len(full) - len(bare) + 1):
        if bare and full[at : at + len(bare)] == bare:
            return full[:at], full[at + len(bare) :]
    return [], []


def _room(model: nn.Module) -> int:
    """How many positions it has tables for."""
    config: Any = getattr(model, "config", None)
    names = "max_position_embeddings", "n_positions", "max_sequence_length"
    rooms = [getattr(config, name, None) for name in names]
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and "position" in name.rpartition(".")[2]:
            # RoBERTa's and BART's tables begin with rows that stand for no position
            padding = -1 if module.padding_idx is None else module.padding_idx
            rooms.append(module.num_embeddings - max(padding + 1, getattr(module, "offset", 0)))
    return min((room for room in rooms if isinstance(room, int) and room > 0), default=2**31)


def _vocabulary(model: nn.Module, least: int) -> int:
    """How many ids may come."""
    sizes = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    return max([least, *sizes])


def _only_decodes(model: nn.Module) -> bool:
    """Whether a model without an output projection is the body of a language model."""
    from transformers.models.auto import modeling_auto as auto  # noqa: PLC0415

    kind = getattr(getattr(model, "config", None), "model_type", None)
    causal = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return kind in causal and kind not in masked


def _either(name: str, *places: Any) -> Any:
    found = (getattr(place, name, None) for place in places)
    return next((value for value in found if value is not None), None)
