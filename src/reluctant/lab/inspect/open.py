"""From what a user names to a model with its words."""

from typing import Any

from torch import nn

from reluctant.errors import ReluctantError
from reluctant.files import expanded
from reluctant.lab.inspect.head import why_apart
from reluctant.lab.inspect.ours import Ours
from reluctant.lab.inspect.subject import Subject
from reluctant.lab.inspect.theirs import OneStack, Other, TwoStacks
from reluctant.transformer.model import Transformer
from reluctant.translation.folder import CONFIG, is_hugging_face
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
    folder = expanded(name)
    shown = folder.resolve().name if folder.is_dir() else name
    if (folder / CONFIG).is_file() and not is_hugging_face(folder):
        from reluctant.translation.trained import Trained  # noqa: PLC0415

        trained = Trained(folder, engine=False, narrow=False, longest=LONGEST)
        return subject_of(trained.model, trained.vocabulary, name=shown, languages=languages)
    loaded: Any = load(name, trust_remote_code=trust_remote_code)
    words = loaded.tokenizer if loaded.tokenizer is not None else loaded.example
    return subject_of(loaded.model, words, name=shown, languages=languages)


def subject_of(
    model: nn.Module, words: Any, *, name: str = "model", languages: Languages = (None, None)
) -> Subject:
    """A model that is there already, and its words: a `Vocabulary` or a tokenizer of transformers.

    Raises ReluctantError if they do not go together, and for languages that say nothing to it.
    """
    if not isinstance(model, nn.Module):
        raise ReluctantError(f"expected a model, an nn.Module; got {type(model).__name__}")
    if model.training:
        raise ReluctantError("the model is in training mode, with dropout: call model.eval()")
    subject = _subject(model, words, name, languages)
    if any(languages) and not isinstance(subject, TwoStacks):
        raise ReluctantError(
            f"expected no languages for {name}, which is no Hugging Face encoder-decoder: leave "
            "--source-lang and --target-lang out"
        )
    if isinstance(subject, OneStack | TwoStacks) and subject.head is not None:
        subject.apart = why_apart(subject)
    return subject


def _subject(model: nn.Module, words: Any, name: str, languages: Languages) -> Subject:
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
