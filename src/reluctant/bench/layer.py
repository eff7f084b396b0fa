"""The layer that is timed, its inputs, and its true outputs."""

from statistics import NormalDist

import torch
from torch import Tensor

from reluctant.feedforward import FeedForward

CHUNK = 2048  # neurons in float64 at a time: the reference needs little memory at any size


def draw(d_model: int, d_ff: int, active: float, generator: torch.Generator) -> FeedForward:
    """A float32 ReLU layer of which, on standard normal x, the share `active` of neurons fires.

    Keys are N(0, 1/d_model), so that `<k, x>` is standard normal, and every bias is the normal
    quantile of `active`. Values are N(0, 1/d_ff).
    """
    layer = FeedForward(d_model, d_ff, "relu", device="meta").to_empty(device="cpu").eval()
    quantile = NormalDist().inv_cdf(active)
    with torch.no_grad():
        layer.up.weight.normal_(0, d_model**-0.5, generator=generator)
        layer.up.bias.fill_(quantile)
        layer.down.weight.normal_(0, d_ff**-0.5, generator=generator)
        layer.down.bias.normal_(0, 0.1, generator=generator)
    return layer


def reference(layer: FeedForward, x: Tensor) -> Tensor:
    """`down(relu(up(x)))` computed in float64; x and the result are (tokens, d_model)."""
    x = x.double()
    y = torch.zeros_like(x)
    for first in range(0, layer.up.out_features, CHUNK):
        part = slice(first, first + CHUNK)
        z = x @ layer.up.weight[part].double().t() + layer.up.bias[part].double()
        y += z.relu_() @ layer.down.weight[:, part].double().t()
    return y + layer.down.bias.double()


def relative_error(y: Tensor, truth: Tensor) -> float:
    """Root mean square of `y - truth` over that of `truth` (float64)."""
    return float((y.double() - truth).norm() / truth.norm())
