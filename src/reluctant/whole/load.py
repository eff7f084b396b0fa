"""A model from a Hugging Face folder, a hub name or a function, without running what is in it.

Weights are read from safetensors or, where there are none, by `torch.load(weights_only=True)`:
neither runs code. Code that comes with a model runs only if the user says so.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reluctant.errors import ReluctantError
from reluctant.files import expanded


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode on the CPU, and what came with it.

    tokenizer: of transformers, or None. example: what a factory gave to call the model with.
    stored: the checkpoint's dtype, which the model need not be loaded in.
    """

    name: str
    model: nn.Module
    tokenizer: Any = None
    example: Any = None
    stored: torch.dtype = torch.float32


def load(
    name: str, *, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False
) -> Loaded:
    """Load a model.

    name: a folder as `save_pretrained` writes it, a name on the Hugging Face hub, or
        `package.module:factory`, a function without arguments that returns a module or
        (module, example inputs). The working directory is searched for its package, too.
    dtype: of the weights; a factory's module stays as it is.
    trust_remote_code: run code that comes with the model.

    Raises ReluctantError, in one line, for whatever cannot be loaded.
    """
    if ":" in name and not Path(name).exists():
        return _from_factory(name)
    if name.startswith((".", "/", "~")) or Path(name).exists():
        folder = expanded(name)
        if not folder.is_dir():
            raise ReluctantError(f"expected a model's folder, got {name}: there is none")
        if not (folder / "config.json").is_file():
            raise ReluctantError(f"expected a model's folder, got {name}: no config.json in it")
        name = str(folder)
    try:
        import transformers  # noqa: F401, PLC0415  an extra
    except ImportError as error:
        raise ReluctantError(
            f"{name} needs transformers ({error}): pip install 'reluctant[hf]'"
        ) from error
    with _quiet():
        return _from_transformers(name, dtype, trust_remote_code)


def _from_factory(name: str) -> Loaded:
    module_name, _, function = name.partition(":")
    path = sys.path.copy()
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` has it
    try:
        factory: Any = importlib.import_module(module_name)
        for part in function.split("."):
            factory = getattr(factory, part)
        made = factory()
    except Exception as error:  # whatever the user's code raises
        raise ReluctantError(f"{name} gave no model: {one_line(error)}") from error
    finally:
        sys.path[:] = path
    model, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise ReluctantError(
            f"expected {name} to return an nn.Module or (nn.Module, example inputs); got "
            f"{type(model).__name__}"
        )
    return Loaded(name, model.eval(), example=example)


def _from_transformers(name: str, dtype: torch.dtype, trust: bool) -> Loaded:
    from transformers import AutoTokenizer, PreTrainedConfig  # noqa: PLC0415
    from transformers.models.auto.tokenization_auto import get_tokenizer_config  # noqa: PLC0415

    try:
        config = dict(PreTrainedConfig.get_config_dict(name)[0])
        with_code = bool(config.get("auto_map") or get_tokenizer_config(name).get("auto_map"))
        if with_code and not trust:
            raise ReluctantError(
                f"{name} brings code of its own, and nothing of it was run: read it, then say "
                "--trust-remote-code"
            )
        options = {"trust_remote_code": trust}
        model = _model(name, config, dtype, options)
    except ReluctantError:
        raise
    except Exception as error:  # transformers, tokenizers and safetensors raise all kinds
        raise ReluctantError(f"{name} cannot be loaded: {one_line(error)}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except Exception:  # a folder may have none, and it is needed for texts only
        tokenizer = None
    words = tokenizer if _has_words(name, tokenizer) else None
    return Loaded(name, model.eval(), words, stored=_stored_as(config))


def _has_words(name: str, tokenizer: Any) -> bool:
    """Without a file of words, transformers makes tokenizers that know none."""
    files = {*getattr(tokenizer, "vocab_files_names", {}).values(), "tokenizer.json"}
    return not Path(name).is_dir() or any((Path(name) / file).is_file() for file in files)


def _model(name: str, config: dict[str, Any], dtype: torch.dtype, options: Any) -> nn.Module:
    model, found = _model_class(config, options["trust_remote_code"]).from_pretrained(
        name, dtype=dtype, weights_only=True, output_loading_info=True, **options
    )
    missing = sorted(found["missing_keys"])
    if missing:
        raise ReluctantError(
            f"{name} lacks {len(missing)} weights of a {type(model).__name__}, such as "
            f"{missing[0]}: the checkpoint is not complete"
        )
    assert isinstance(model, nn.Module)
    return model


def _model_class(config: dict[str, Any], trust: bool) -> Any:
    """Return the class the checkpoint was saved from, else the bare model of its type."""
    import transformers  # noqa: PLC0415

    architectures = config.get("architectures") or [""]
    if trust:
        for auto, wanted in (config.get("auto_map") or {}).items():
            if str(wanted).endswith(f".{architectures[0]}") and hasattr(transformers, auto):
                return getattr(transformers, auto)
    cls = getattr(transformers, str(architectures[0]), None)
    is_model = isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)
    return cls if is_model else transformers.AutoModel


def _stored_as(config: dict[str, Any]) -> torch.dtype:
    """What the weights of a checkpoint are stored as; float32 where its config does not say."""
    name = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
    dtype = getattr(torch, name, None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def one_line(error: BaseException, length: int = 300) -> str:
    """Kind and text of an error, in one line.

    >>> one_line(KeyError("a\\nb"))
    "KeyError: 'a\\\\nb'"
    """
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= length else f"{text[:length]} ..."


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from talking beside the error, and from asking the hub to convert files."""
    from huggingface_hub.utils import logging as hub  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    verbosity, hub_verbosity, bars = (
        logging.get_verbosity(),
        hub.get_verbosity(),
        logging.is_progress_bar_enabled(),
    )
    convert = os.environ.get("DISABLE_SAFETENSORS_CONVERSION")
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    logging.set_verbosity(CRITICAL)
    hub.set_verbosity(CRITICAL)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub.set_verbosity(hub_verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
        if convert is None:
            del os.environ["DISABLE_SAFETENSORS_CONVERSION"]
        else:
            os.environ["DISABLE_SAFETENSORS_CONVERSION"] = convert
