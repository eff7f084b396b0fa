"""The layers that are timed, and their true outputs."""

import copy
from statistics import NormalDist

import torch
from torch import Tensor

from reluctant.feedforward import FeedForward

CHUNK = 2048  # neurons in float64 at a time: the reference needs little memory at any size


def draw(
    d_model: int,
    d_ff: int,
    density: float,
    generator: torch.Generator,
    *,
    activation: str = "relu",
    gated: bool = False,
    dtype: torch.dtype = torch.float32,
) -> FeedForward:
    """A layer of which, on standard normal x, the share `density` of pre-activations is positive.

    Keys are N(0, 1/d_model), so that `<k, x>` is standard normal, and every bias is the normal
    quantile of `density`. Values are N(0, 1/d_ff). Gated: that holds for the gate; the other
    factor's bias is zero. bfloat16 weights are the float32 ones rounded.
    """
    layer = FeedForward(d_model, d_ff, activation, gated=gated, device="meta")
    layer = layer.to_empty(device="cpu").eval()
    fires = layer.gate or layer.up
    with torch.no_grad():
        for rows in {layer.up, fires}:
            rows.weight.normal_(0, d_model**-0.5, generator=generator)
            rows.bias.zero_()
        fires.bias.fill_(NormalDist().inv_cdf(density))
        layer.down.weight.normal_(0, d_ff**-0.5, generator=generator)
        layer.down.bias.normal_(0, 0.1, generator=generator)
    return layer.to(dtype)


def copies(layer: FeedForward, count: int) -> list[FeedForward]:
    """The layer and others like it: drawing is slow, and other memory is all that matters."""
    return [layer, *(copy.deepcopy(layer) for _ in range(count - 1))]


def weight_bytes(layer: FeedForward) -> int:
    """Memory of the layer's weights."""
    return sum(parameter.nbytes for parameter in layer.parameters())


def fired(layer: FeedForward, x: Tensor) -> Tensor:
    """Which neurons' activation is not zero, (tokens, d_ff) bool, from float64."""
    fires = layer.gate or layer.up
    z = x.double() @ fires.weight.double().t() + fires.bias.double()
    return layer.activation(z) != 0


def reference(layer: FeedForward, x: Tensor) -> Tensor:
    """The layer's output computed in float64; x and the result are (tokens, d_model)."""
    x = x.double()
    y = torch.zeros_like(x)
    for first in range(0, layer.d_ff, CHUNK):
        part = slice(first, first + CHUNK)
        fires = layer.gate or layer.up
        h = layer.activation(x @ fires.weight[part].double().t() + fires.bias[part].double())
        if layer.gate is not None:
            h = h * (x @ layer.up.weight[part].double().t() + layer.up.bias[part].double())
        y += h @ layer.down.weight[:, part].double().t()
    return y + layer.down.bias.double()


def relative_error(y: Tensor, truth: Tensor) -> float:
    """Root mean square of `y - truth` over that of `truth` (float64)."""
    return float((y.double() - truth).norm() / truth.norm())
