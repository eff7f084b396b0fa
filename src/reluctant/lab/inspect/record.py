"""What `reluctant inspect` found, as dataclasses and as JSON.

Shares are fractions, from 0 to 1. What is not known, or does not apply, is None.
"""

import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from reluctant.lab.inspect.of_layer import Layer
from reluctant.lab.inspect.of_sentence import Sentence, Walk
from reluctant.printable import encodable

FORMAT = 1
_DIGITS = 6  # significant ones, of every number with a fraction


@dataclass(frozen=True)
class Model:
    """kind: "encoder-decoder", "decoder", "encoder" or "other". parameters: each once."""

    name: str
    class_: str
    kind: str
    parameters: int


@dataclass(frozen=True)
class Text:
    """What was read. sequences: lines, and pieces of lines that are longer than the model takes.

    tokens: positions that went through the layers, of all stacks; by_stack: of each. whole: False
    if it was stopped by Ctrl-C or by a limit: stopped says by which. replaced: what was no UTF-8,
    and became U+FFFD. bytes, replaced: if it was stopped, of the lines that were read. target:
    where what the decoder reads is from: "given", "translated" by the model itself, or None.
    """

    name: str
    bytes: int
    sequences: int
    tokens: int
    by_stack: dict[str, int]
    seconds: float
    whole: bool
    stopped: str | None
    replaced: int
    target: str | None


@dataclass(frozen=True)
class Totals:
    """flops_per_token: of the whole model, two for each multiplication and addition in products of
    matrices and in attention; the mean over the tokens of flops_sequences sequences of the text,
    of flops_tokens tokens.
    """

    parameters: int
    feed_forward_parameters: int
    flops_per_token: float
    feed_forward_flops_per_token: float
    tokens: int
    flops_sequences: int
    flops_tokens: int


@dataclass(frozen=True)
class Left:
    """A layer that is not looked into, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Check:
    """What has to hold if the figures are to mean something."""

    name: str
    holds: bool
    says: str


@dataclass(frozen=True)
class Record:
    reluctant: str
    machine: str
    command: str
    model: Model
    text: Text
    totals: Totals
    layers: list[Layer]
    left: list[Left]
    sentences: list[Sentence]
    walk: Walk | None
    checks: list[Check]
    format: int = field(default=FORMAT)

    @property
    def sound(self) -> bool:
        """Whether all checks hold."""
        return all(check.holds for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """As `json` takes it: numbers with six digits, None for those that are not finite, and text
        that UTF-8 can say.
        """
        found: dict[str, Any] = _plain(self)
        return {"format": found.pop("format"), **found}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name.rstrip("_"): _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value
