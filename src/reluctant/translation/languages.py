"""Of which language to which: how a model of transformers, with its tokenizer, is told."""

from typing import Any, NamedTuple

from reluctant.errors import ReluctantError


class Spoken(NamedTuple):
    """prefix: what stands before each source. forced: the id that each target begins with, None
    where the model's own settings say it, or there is none.
    """

    prefix: str
    forced: int | None


def needs_target(model: Any, tokenizer: Any) -> bool:
    """Whether it has many languages, and nothing says into which it translates."""
    many = hasattr(tokenizer, "src_lang")
    return many and getattr(_settings(model), "forced_bos_token_id", None) is None


def spoken(model: Any, tokenizer: Any, source: str | None, target: str | None) -> Spoken:
    """What tells the model its languages. source, target: codes as the tokenizer has them.

    A tokenizer of many languages (M2M100, NLLB, mBART) is set to them, and takes its own default
    for a missing source. Of a model such as T5, whose config has prefixes, they choose one.

    Raises ReluctantError for languages that neither knows.
    """
    if hasattr(tokenizer, "src_lang"):
        if source is not None:
            _language(tokenizer, source)
            tokenizer.src_lang = source
        if target is None:
            return Spoken("", None)
        forced = _language(tokenizer, target)
        tokenizer.tgt_lang = target
        return Spoken("", forced)
    if source is None and target is None:
        return Spoken("", None)
    tasks = getattr(model.config, "task_specific_params", None) or {}
    task = tasks.get(f"translation_{source}_to_{target}", {})
    if "prefix" not in task:
        known = [name for name in tasks if name.startswith("translation_")]
        raise ReluctantError(
            f"expected languages that the model's config or tokenizer knows "
            f"({', '.join(known) or 'it has none'}); got {source} and {target}"
        )
    return Spoken(str(task["prefix"]), None)


def some_of(tokenizer: Any) -> str:
    """Some of its codes, for messages."""
    tokens = [str(t).strip("_") for t in tokenizer.all_special_tokens if "<" not in str(t)]
    return f"such as {', '.join(tokens[:3])}" if tokens else "which has none"


def listed(ids: Any) -> list[int]:
    """Ids of which a config may have none, one or several.

    >>> listed(None), listed(2), listed([2, 3])
    ([], [2], [2, 3])
    """
    return list(ids) if isinstance(ids, list | tuple) else [] if ids is None else [int(ids)]


def _settings(model: Any) -> Any:
    return getattr(model, "generation_config", None) or model.config


def _language(tokenizer: Any, code: str) -> int:
    find = getattr(tokenizer, "get_lang_id", tokenizer.convert_tokens_to_ids)
    try:
        id = find(code)
    except KeyError:
        id = None
    # a word such as "en" may be a token, too
    special = tokenizer.all_special_ids
    if id is None or id not in special or id == tokenizer.unk_token_id:
        raise ReluctantError(
            f"expected a language of the tokenizer, {some_of(tokenizer)}; got {code!r}"
        )
    return int(id)
