"""What a training run depends on: one list of settings, for the command line, a file and code."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from reluctant.errors import ReluctantError

SCHEDULES = ("inverse-sqrt", "cosine", "constant")
PARALLEL = ("data", "sharded", "tensor")
KINDS = ("bpe", "unigram")
# What may be another when a run is taken up again. Of these, threads may change the last bits of
# torch's products.
FREE = ("minutes", "patience", "score_sentences", "threads")


def _setting(default: Any, text: str, least: float | None = 0, most: float | None = None) -> Any:
    return field(default=default, metadata={"help": text, "least": least, "most": most})


@dataclass(frozen=True)
class Settings:
    """Sizes, learning, and what goes with them; each field's help says what it is.

    Raises ReluctantError for a value that does not fit.

    >>> Settings(d_model=128).d_ff
    2048
    >>> Settings(schedule="linear")
    Traceback (most recent call last):
        ...
    reluctant.errors.ReluctantError: schedule: expected inverse-sqrt, cosine or constant, got \
'linear'
    """

    source_lang: str | None = _setting(None, "Suffix of source files in a folder, such as en.")
    target_lang: str | None = _setting(None, "Suffix of target files in a folder, such as de.")
    max_characters: int = _setting(500, "Longer sentences are left out.", 1)
    max_ratio: float = _setting(4.0, "So are pairs of which one side is so much longer.", 1)
    valid_share: float = _setting(0.01, "Held out where there is no --validation.", 0, 0.5)
    vocab_size: int = _setting(8000, "Subwords, of both languages together.", 300)
    vocab_kind: str = _setting("bpe", "bpe or unigram.")
    d_model: int = _setting(256, "Width of the residual stream.", 1)
    heads: int = _setting(4, "Of each attention.", 1)
    d_ff: int = _setting(2048, "Neurons of each feed-forward layer.", 1)
    encoder_layers: int = _setting(3, "Layers of the encoder.", 1)
    decoder_layers: int = _setting(3, "Layers of the decoder.", 1)
    activation: str = _setting("relu", "Of the feed-forward layers.")
    dropout: float = _setting(0.1, "Of embedded tokens and of what sub-layers add.", 0, 1)
    attention_dropout: float = _setting(0.0, "Of attention weights.", 0, 1)
    activation_dropout: float = _setting(0.0, "Of hidden neurons.", 0, 1)
    norm_first: bool = _setting(True, "Pre-norm; otherwise post-norm, as in the paper.")
    steps: int = _setting(20_000, "Of the optimizer; the learning rate is planned for them.", 1)
    minutes: float | None = _setting(None, "Stop earlier, after so many minutes in all.", 1e-3)
    batch_tokens: int = _setting(4096, "Positions of a batch, on either side.", 1)
    accumulate: int = _setting(1, "Batches a step.", 1)
    lr: float = _setting(1e-3, "The highest learning rate.")
    warm_up: int = _setting(1000, "Steps until it is reached.")
    schedule: str = _setting("cosine", "After that: inverse-sqrt, cosine (to 0) or constant.")
    label_smoothing: float = _setting(0.1, "Szegedy et al. 2016, section 7.", 0, 1)
    clip: float = _setting(1.0, "The largest norm of a step's gradient; 0: any.")
    weight_decay: float = _setting(0.01, "Of matrices, as AdamW applies it.")
    autocast: bool = _setting(False, "Products in bfloat16.")
    penalty: float = _setting(0.0, "Weight of the mean activation in the loss: more zeros.")
    ramp: int = _setting(1000, "Steps until the penalty has its whole weight.")
    average: int = _setting(5, "The model is the mean of so many of the last checkpoints.", 1)
    every: int = _setting(500, "Steps from one checkpoint and validation to the next.", 1)
    patience: int = _setting(0, "End after so many validations without a better one; 0: never.")
    score_sentences: int = _setting(200, "Translated for BLEU and chrF at each validation.")
    seed: int = _setting(0, "Of weights, dropout and the order of batches.", 0, 2**31)
    threads: int = _setting(0, "Of torch; 0: as it is.")
    device: str = _setting("cpu", "Where torch has one: another, with --no-engine.")
    engine: bool = _setting(True, "Train over the active neurons; otherwise plain torch.")
    parallel: str = _setting(
        "data", "Under torchrun: data (DDP), sharded (FSDP2) or tensor (feed-forward layers)."
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            _check(each.name, str(each.type), each.metadata, getattr(self, each.name))
        for name, choices in (
            ("schedule", SCHEDULES),
            ("parallel", PARALLEL),
            ("vocab_kind", KINDS),
        ):
            if getattr(self, name) not in choices:
                listed = ", ".join(choices[:-1]) + f" or {choices[-1]}"
                raise _wrong(name, listed, getattr(self, name))
        if self.engine and self.device != "cpu":
            raise ReluctantError(
                f"device: the engine is for the CPU, got {self.device!r}: add --no-engine"
            )
        if (self.source_lang is None) != (self.target_lang is None):
            raise ReluctantError("expected both source_lang and target_lang, or neither")

    @property
    def languages(self) -> tuple[str, str] | None:
        """Source and target, if they were named."""
        if self.source_lang is None or self.target_lang is None:
            return None
        return self.source_lang, self.target_lang

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """The settings in which a run that was begun with `other` computes something else."""
        mine = {each.name: getattr(self, each.name) for each in fields(self)}
        # a setting that an older version did not have was as it is by default now
        theirs = {each.name: other.get(each.name, each.default) for each in fields(self)}
        return [name for name in mine if name not in FREE and mine[name] != theirs[name]]


def read_settings(file: Path | None, given: Mapping[str, Any]) -> Settings:
    """The settings of a TOML file, if there is one, and over them those that were given.

    Raises ReluctantError for a file that cannot be read, an unknown name or a wrong value.

    >>> read_settings(None, {"d_ff": 512}).d_ff
    512
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are such
            raise ReluctantError(f"expected settings as TOML in {file}: {error}") from error
    known = {each.name for each in fields(Settings)}
    if double := [name for name in values if "-" in name and name.replace("-", "_") in values]:
        raise ReluctantError(f"{file}: {double[0]} stands there twice: leave one out")
    values = {name.replace("-", "_"): value for name, value in values.items()}
    if unknown := sorted(values.keys() - known):
        raise ReluctantError(
            f"{file}: unknown setting {unknown[0]!r}; there are {', '.join(sorted(known))}"
        )
    return Settings(**{**values, **given})


def _check(name: str, kind: str, bounds: Mapping[str, Any], value: Any) -> None:
    """Compare a value with its field's type, such as "<class 'int'>" or "float | None"."""
    if value is None and "None" in kind:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if "bool" in kind:
        fits, expected = isinstance(value, bool), "true or false"
    elif "str" in kind:
        fits, expected = isinstance(value, str), "a text"
    else:
        whole = "int" in kind
        least, most = bounds["least"], bounds["most"]
        fits = number and (not whole or isinstance(value, int)) and value >= least
        fits = fits and value != float("inf") and (most is None or value <= most)
        upper = "up" if most is None else f"to {most}"
        expected = f"{'a whole' if whole else 'a'} number from {least} {upper}"
    if not fits:
        raise _wrong(name, expected, value)


def _wrong(name: str, expected: str, value: object) -> ReluctantError:
    return ReluctantError(f"{name}: expected {expected}, got {value!r}")
