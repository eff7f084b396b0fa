"""All models of a study by their names: what is another in each than in the base model."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from reluctant.errors import ReluctantError
from reluctant.lab.study import variants
from reluctant.lab.study.plan import SIZES, Plan
from reluctant.lab.study.shapes import Shape, d_ff_for, fit, parameters
from reluctant.transformer.model import Transformer
from reluctant.translation.learner import config
from reluctant.translation.settings import Settings

BASE = "base"
ACTIVATIONS = ("relu2", "gelu", "swiglu")
CAPACITY = ("early", "middle", "late")
# Ends the name of a model that learns with half the rate: one rate may suit some and not others.
HALF = "-half"
Alter = Callable[[Transformer], None]


@dataclass(frozen=True)
class Variant:
    """settings: of its training; alter: what is done to an ordinary Transformer of these."""

    settings: Settings
    alter: Alter = field(default=lambda model: None)

    def build(self, vocabulary: int) -> Transformer:
        """The model before it has learned anything, the same one that its training begins with."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            model = Transformer(config(self.settings, vocabulary))
            self.alter(model)
        return model.eval()


ALTERED: dict[str, Alter] = {
    "none": variants.without_feed_forward,
    "none-deep": variants.without_feed_forward,
    "no-residual": variants.without_residual,
    "no-residuals": variants.without_residuals,
    "hourglass": variants.hourglass,
    "shared": variants.shared,
    "shared-encoder": variants.shared_in_encoder,
}


def ratio_name(ratio: float, size: str) -> str:
    """The name of the model with this d_ff / d_model and size.

    >>> ratio_name(0.25, "small"), ratio_name(4, "middle")
    ('ratio-1_4-small', 'base')
    """
    if (ratio, size) == (4, "middle"):
        return BASE
    return f"ratio-{f'1_{1 / ratio:g}' if ratio < 1 else f'{ratio:g}'}-{size}"


def ratios(plan: Plan) -> dict[str, tuple[float, str]]:
    """d_ff / d_model and size of every model of the width experiment, by its name."""
    return {ratio_name(r, size): (r, size) for r in plan.ratios for size in SIZES}


def variant(name: str, plan: Plan, vocabulary: int, seed: int) -> Variant:
    """The model of this name; "-half" at its end: with half the learning rate.

    Raises ReluctantError if there is none.
    """
    if name.endswith(HALF):
        whole = variant(name.removesuffix(HALF), plan, vocabulary, seed)
        return replace(whole, settings=replace(whole.settings, lr=plan.lr / 2))
    base = Shape(plan.d_model, plan.d_ff)
    budget = parameters(base, vocabulary, plan.layers)
    changes: dict[str, Any] = {}
    alter = ALTERED.get(name, lambda model: None)
    if name in ratios(plan) and name != BASE:
        ratio, size = ratios(plan)[name]
        factor = plan.sizes[SIZES.index(size)]
        sizes = round(factor * budget), ratio, vocabulary, plan.layers
        d_model, d_ff = fit(*sizes, plan.widest, plan.tolerance)
        changes = {"d_model": d_model, "d_ff": d_ff}
    elif name in ACTIVATIONS:
        gated = name == "swiglu"
        d_ff = d_ff_for(budget, plan.d_model, vocabulary, plan.layers, gated=gated)
        changes = {"activation": name, "d_ff": d_ff}
    elif name == "identity":
        changes = {"activation": "identity"}
    elif name == "none-deep":
        changes = _as_deep(plan)
    elif name in CAPACITY:
        alter = variants.tapered(_shares(plan.layers, CAPACITY.index(name)))
    elif name != BASE and name not in ALTERED:
        raise ReluctantError(f"expected the name of a model of the study, got {name!r}")
    return Variant(plan.settings(seed, **changes), alter)


def _as_deep(plan: Plan) -> dict[str, Any]:
    """Layers of attention alone that together have the base model's parameters, or nearly."""
    d, d_ff, layers = plan.d_model, plan.d_ff, plan.layers
    encoder_layer = 4 * d * d, 4 * d * d + 2 * d * d_ff
    decoder_layer = 8 * d * d, 8 * d * d + 2 * d * d_ff
    return {
        "encoder_layers": round(layers * encoder_layer[1] / encoder_layer[0]),
        "decoder_layers": round(layers * decoder_layer[1] / decoder_layer[0]),
    }


def _shares(layers: int, place: int) -> list[float]:
    """Of three thirds of a stack, one (0: first, 1: middle, 2: last) has two thirds of all neurons.

    >>> _shares(3, 0)
    [2.0, 0.5, 0.5]
    """
    inside = [3 * i // layers == place for i in range(layers)]
    count = sum(inside)
    if not 0 < count < layers:
        raise ReluctantError(f"expected at least three layers in a stack, got {layers}")
    wide, narrow = 2 * layers / (3 * count), layers / (3 * (layers - count))
    return [wide if each else narrow for each in inside]
