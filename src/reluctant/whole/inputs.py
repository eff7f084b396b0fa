"""What a model is given: texts, random tokens, or what its factory gave."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.whole.load import Loaded, one_line

TOKENS = 32  # of a prompt, where there is no tokenizer
WITH_TOKENS = "input_ids"


@dataclass(frozen=True)
class Case:
    """Inputs of one model.

    args, kwargs: of its forward. tokens: positions it computes in one forward, padding not counted.
    sequences: texts in the batch. generates: whether it can answer with text.
    mask: (sequences, positions), the positions that count for a text's embedding; None: all.
    what: the inputs in words.
    """

    what: str
    tokens: int
    sequences: int
    generates: bool = False
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    mask: Tensor | None = None


def sentences() -> list[str]:
    """The sentences of `sentences.txt`, which also names where they are from.

    >>> len(sentences())
    32
    """
    text = files("reluctant.whole").joinpath("sentences.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def make_case(loaded: Loaded, *, prompt: str | None = None, tokens: int | None = None) -> Case:
    """Choose the inputs.

    prompt: a text, for models with a tokenizer. tokens: so many random tokens instead. Neither:
    the factory's example, or with a tokenizer our sentences (one for a model that generates, all
    32 in a batch for others), else 32 random tokens.

    Raises ReluctantError if the model takes no tokens, or a prompt has no tokenizer.
    """
    if prompt is not None and tokens is not None:
        raise ReluctantError("expected --prompt or --tokens, got both: leave one out")
    if loaded.example is not None:
        if prompt is not None or tokens is not None:
            raise ReluctantError(f"{loaded.name} brings its own inputs: leave out the option")
        return _example(loaded)
    config = getattr(loaded.model, "config", None)
    if config is None or getattr(loaded.model, "main_input_name", None) != WITH_TOKENS:
        raise ReluctantError(
            f"{loaded.name} is a {type(loaded.model).__name__}, which takes no token ids: write a "
            "function that returns (model, example inputs) and name it package.module:function"
        )
    generates = bool(loaded.model.can_generate())  # type: ignore[operator]
    if loaded.tokenizer is None and prompt is not None:
        raise ReluctantError(f"{loaded.name} has no tokenizer for --prompt: use --tokens")
    if loaded.tokenizer is None or tokens is not None:
        return _random(config, tokens or TOKENS, generates)
    texts = [prompt] if prompt is not None else sentences()[: 1 if generates else None]
    return _encoded(loaded, texts, generates)


def _example(loaded: Loaded) -> Case:
    example: Any = loaded.example
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    if isinstance(example, Mapping):
        kwargs = example
    else:
        args = tuple(example) if isinstance(example, tuple | list) else (example,)
    tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
    if not tensors:
        raise ReluctantError(f"expected {loaded.name} to give tensors as example inputs; got none")
    first = kwargs.get(WITH_TOKENS, tensors[0])
    config = getattr(loaded.model, "config", None)
    ids = config is not None and not first.is_floating_point() and WITH_TOKENS in kwargs
    generates = ids and hasattr(loaded.model, "generate") and bool(loaded.model.can_generate())  # type: ignore[operator]
    count = first.numel() if not first.is_floating_point() else first[..., :1].numel()
    sequences = first.shape[0] if first.dim() > 1 else 1
    return Case("the factory's inputs", max(count, 1), sequences, generates, args, kwargs)


def _random(config: Any, tokens: int, generates: bool) -> Case:
    vocabulary = config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (1, tokens), generator=torch.Generator().manual_seed(0))
    special = [getattr(config, f"{kind}_token_id", None) for kind in ("pad", "bos", "eos")]
    taken = [each for each in special if isinstance(each, int)]
    free = next((i for i in range(vocabulary) if i not in taken), 0)
    ids[torch.isin(ids, torch.tensor(taken, dtype=ids.dtype))] = free
    kwargs = {WITH_TOKENS: ids, "attention_mask": torch.ones_like(ids)}
    return Case(f"{tokens} random tokens", tokens, 1, generates, kwargs=kwargs)


def _encoded(loaded: Loaded, texts: list[str], generates: bool) -> Case:
    try:
        encoded = dict(
            loaded.tokenizer(texts, return_tensors="pt", padding=len(texts) > 1, truncation=False)
        )
        ids: Tensor = encoded[WITH_TOKENS]
    except Exception as error:  # whatever a tokenizer raises
        raise ReluctantError(
            f"the tokenizer of {loaded.name} fails ({one_line(error)}): use --tokens"
        ) from error
    mask = encoded.setdefault("attention_mask", torch.ones_like(ids))
    count = int(mask.sum())
    if count == 0:
        raise ReluctantError("expected a prompt with at least one token, got none")
    if generates:
        encoded.pop("token_type_ids", None)
    what = f"{len(texts)} sentence{'s' * (len(texts) > 1)}, {count} tokens"
    return Case(what, count, len(texts), generates, kwargs=encoded, mask=mask)
