"""Models of one size that are wide in different places."""

import math
from typing import NamedTuple

from reluctant.errors import ReluctantError


class Shape(NamedTuple):
    """Width of the residual stream, and neurons of each feed-forward layer."""

    d_model: int
    d_ff: int


def parameters(shape: Shape, vocabulary: int, layers: int, *, gated: bool = False) -> int:
    """Of a pre-norm Transformer with so many layers in each stack and one embedding for all.

    >>> from reluctant.translation.learner import config
    >>> from reluctant.translation.learner import parameters as counted
    >>> from reluctant.translation.settings import Settings
    >>> sizes = Settings(d_model=64, heads=2, d_ff=256, encoder_layers=3, decoder_layers=3)
    >>> parameters(Shape(64, 256), 2000, 3) == counted(config(sizes, 2000))
    True
    """
    d, d_ff = shape
    attention, norm = 4 * d * (d + 1), 2 * d
    encoder_layer = attention + 2 * norm + feed_forward(d, d_ff, gated=gated)
    decoder_layer = 2 * attention + 3 * norm + feed_forward(d, d_ff, gated=gated)
    return vocabulary * d + layers * (encoder_layer + decoder_layer) + 2 * norm


def feed_forward(d_model: int, d_ff: int, *, gated: bool = False) -> int:
    """Parameters of one feed-forward layer with its biases.

    >>> feed_forward(4, 16)
    148
    """
    rows = 3 if gated else 2
    return rows * d_model * d_ff + (rows - 1) * d_ff + d_model


def d_ff_for(
    budget: float, d_model: int, vocabulary: int, layers: int, *, gated: bool = False
) -> int:
    """The d_ff with which a model of this d_model comes nearest to a budget of parameters; from 1.

    >>> d_ff_for(parameters(Shape(64, 256), 2000, 3), 64, 2000, 3)
    256
    """
    without = parameters(Shape(d_model, 0), vocabulary, layers, gated=gated)
    one = parameters(Shape(d_model, 1), vocabulary, layers, gated=gated) - without
    return max(1, round((budget - without) / one))


def fit(
    budget: int, ratio: float, vocabulary: int, layers: int, widest: int, tolerance: float
) -> Shape:
    """The shape with d_ff / d_model near a ratio, and nearly so many parameters in all.

    d_model is even and at most `widest`; d_ff may be off the ratio by a tenth, where that brings
    the number of parameters nearer to the budget. tolerance: by which share it may miss it.

    Raises ReluctantError if there is no such shape.

    >>> fit(478464, 4, 2000, 3, widest=128, tolerance=0.02)
    Shape(d_model=64, d_ff=256)
    """
    found: list[tuple[float, Shape]] = []
    for d_model in range(2, widest + 1, 2):
        exact = d_ff_for(budget, d_model, vocabulary, layers)
        wanted = ratio * d_model
        low, high = max(1, math.ceil(0.9 * wanted)), max(1, math.floor(1.1 * wanted))
        shape = Shape(d_model, min(max(exact, low), high))
        missed = abs(parameters(shape, vocabulary, layers) / budget - 1)
        if missed <= tolerance:
            found.append((missed + abs(math.log(shape.d_ff / wanted)), shape))
    if not found:
        raise ReluctantError(
            f"expected a model of {budget:,} parameters with d_ff / d_model = {ratio:g} and a "
            f"d_model of at most {widest}; there is none: choose another size, or a wider model"
        )
    return min(found)[1]
