"""From what a user names to a model with its words."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from reluctant.errors import ReluctantError
from reluctant.lab.inspect.ours import Ours
from reluctant.lab.inspect.subject import Subject
from reluctant.lab.inspect.theirs import OneStack, Other, TwoStacks
from reluctant.transformer.model import Transformer
from reluctant.translation.folder import CONFIG
from reluctant.translation.translator import LONGEST
from reluctant.translation.vocabulary import Vocabulary
from reluctant.whole.load import load

Languages = tuple[str | None, str | None]


def open_subject(
    name: str, *, trust_remote_code: bool = False, languages: Languages = (None, None)
) -> Subject:
    """Load the model called `name`, in float32.

    name: a folder as `reluctant train` writes it, or what `reluctant.whole.load.load` takes: a
        Hugging Face folder, a hub name, or package.module:factory. A factory returns (model,
        tokenizer).
    languages: codes of source and target, for Hugging Face models of many languages.

    Raises ReluctantError, in one line, for whatever cannot be loaded, and where there is no
    tokenizer.
    """
    folder = Path(name).expanduser()
    shown = folder.resolve().name if folder.is_dir() else name
    if _is_ours(folder):
        from reluctant.translation.trained import Trained  # noqa: PLC0415

        trained = Trained(folder, engine=False, narrow=False, longest=LONGEST)
        return Ours(shown, trained.model, trained.vocabulary, trained.longest)
    loaded: Any = load(name, trust_remote_code=trust_remote_code)
    words = loaded.tokenizer if loaded.tokenizer is not None else loaded.example
    return subject_of(loaded.model, words, name=shown, languages=languages)


def subject_of(
    model: nn.Module, words: Any, *, name: str = "model", languages: Languages = (None, None)
) -> Subject:
    """A model that is there already, and its words: a `Vocabulary` or a tokenizer of transformers.

    Raises ReluctantError if they do not go together.
    """
    if not isinstance(model, nn.Module):
        raise ReluctantError(f"expected a model, an nn.Module; got {type(model).__name__}")
    if model.training:
        raise ReluctantError("the model is in training mode, with dropout: call model.eval()")
    if isinstance(model, Transformer) and isinstance(words, Vocabulary):
        return Ours(name, model, words, LONGEST)
    if not callable(words) or not hasattr(words, "convert_ids_to_tokens"):
        raise ReluctantError(
            f"expected a tokenizer beside {name}, got {type(words).__name__}: save it in the "
            "model's folder, or write a function that returns (model, tokenizer) and name it "
            "package.module:function"
        )
    config: Any = getattr(model, "config", None)
    if config is None or not hasattr(model, "can_generate"):
        return Other(name, model, words)
    if getattr(model, "main_input_name", None) != "input_ids":
        raise ReluctantError(f"{name} is a {type(model).__name__}, which takes no token ids")
    if getattr(config, "is_encoder_decoder", False):
        return TwoStacks(name, model, words, languages)
    return OneStack(name, model, words)


def _is_ours(folder: Path) -> bool:
    """By the one entry that every config of theirs has, and none of ours."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "model_type" not in config
