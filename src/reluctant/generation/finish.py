"""What a model's forward does to its projection's output before it hands it out as logits.

Recognised are a softcap (Gemma 2), a bias of the model's own (Marian, BART), and a scale (Cohere,
Granite): each logit grows with the output it comes from. It is not read off the code but seen: one
forward's logits have to be, bit for bit, what the formula makes of the projection's output.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_CAPS = ("final_logit_softcapping",)
_FACTORS = ("logit_scale",)
_DIVISORS = ("logits_scaling",)


@dataclass(frozen=True)
class Finish:
    """kind: "none", "bias", "softcap", "factor", "divisor"; number: what the config says."""

    kind: str
    number: float = 0.0

    def logits(self, model: nn.Module, output: Tensor) -> Tensor:
        """(m, vocabulary) -> (m, vocabulary), as the model's forward computes it."""
        if self.kind == "bias":
            bias: Tensor = model.final_logits_bias  # type: ignore[assignment]
            return output + bias
        if self.kind == "softcap":
            return torch.tanh(output / self.number) * self.number
        if self.kind == "factor":
            return output * self.number
        return output / self.number if self.kind == "divisor" else output

    def some(
        self, model: nn.Module, output: Tensor, m: int, ids: Tensor, shape: tuple[int, int]
    ) -> Tensor:
        """The same of these ids alone, (k,) -> (k,). They stand in row m of logits of a shape."""
        if self.kind == "bias":
            bias: Tensor = model.final_logits_bias  # type: ignore[assignment]
            return output + bias[0, ids]
        if self.kind == "softcap":  # the bits of torch's tanh go by the place in the tensor
            every = output.new_zeros(shape)
            every[m, ids] = output
            return self.logits(model, every)[m, ids]
        return self.logits(model, output)

    def bound(self, model: nn.Module, output: Tensor, side: int) -> Tensor:
        """The same of a bound; side: 1 of an upper one, -1 of a lower one.

        Sums, products and quotients are rounded monotonically; tanh is only as exact as it is.
        """
        found = self.logits(model, output)
        if self.kind == "softcap":
            found = found + side * 8 * torch.finfo(found.dtype).eps * abs(self.number)
        return found


def state_of(model: nn.Module) -> tuple[object, ...]:
    """What was seen holds as long as this stays: the forward's code, and what it may go by."""
    return type(model), type(model).forward, tuple(_possible(model))


def seen(model: nn.Module, output: Tensor, logits: Tensor) -> Finish | None:
    """What leads from the projection's output to these logits; None if nothing known does."""
    for finish in _possible(model):
        if same_bits(finish.logits(model, output), logits):
            return finish
    return None


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    """Whether they are equal, NaN to NaN."""
    return ours.dtype == theirs.dtype and torch.equal(ours.nan_to_num(), theirs.nan_to_num())


def _possible(model: nn.Module) -> Iterator[Finish]:
    config: Any = getattr(model, "config", None)
    texts = [config, getattr(config, "text_config", None)]
    yield Finish("none")
    if isinstance(getattr(model, "final_logits_bias", None), Tensor):
        yield Finish("bias")
    for kind, names in (("softcap", _CAPS), ("factor", _FACTORS), ("divisor", _DIVISORS)):
        for holder in texts:
            for name in names:
                number = getattr(holder, name, None)
                if isinstance(number, float | int) and number > 0:
                    yield Finish(kind, float(number))
