"""The layers that are trained, what goes in, and their true outputs and gradients."""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import isnan
from statistics import NormalDist

import torch
from torch import Tensor, nn

from reluctant.bench import layer as drawn
from reluctant.bench.grid import Shape
from reluctant.bench.train.grid import KINDS
from reluctant.feedforward import FeedForward

# The slope of a ReLU jumps at 0, where one sign that rounding turns around weighs as much as all
# other errors together. So tokens with a pre-activation nearer to 0 than this are drawn again, as
# often as this (which leaves some only of very wide layers).
NEAR, TRIES = 1e-5, 20

# How a layer and its norm, if it has one, are computed.
Block = Callable[[FeedForward, nn.LayerNorm | None, Tensor], Tensor]


class Model(nn.Module):
    """One feed-forward layer ("layer"), or several, x = norm(x + layer(x)) each ("stack")."""

    def __init__(self, layers: list[FeedForward], norms: list[nn.LayerNorm]) -> None:
        super().__init__()
        self.layers, self.norms = nn.ModuleList(layers), nn.ModuleList(norms)

    def blocks(self) -> Iterator[tuple[FeedForward, nn.LayerNorm | None]]:
        """Each layer with its norm."""
        for number, layer in enumerate(self.layers):
            norm = self.norms[number] if len(self.norms) else None
            assert isinstance(layer, FeedForward)
            assert norm is None or isinstance(norm, nn.LayerNorm)
            yield layer, norm

    def forward(self, x: Tensor) -> Tensor:
        """x: (tokens, d_model)."""
        return run(self, plain, x)


def plain(layer: FeedForward, norm: nn.LayerNorm | None, x: Tensor) -> Tensor:
    """The layer as it is called."""
    y: Tensor = layer(x)
    return y if norm is None else norm(x + y)


def run(model: Model, block: Block, x: Tensor) -> Tensor:
    """All layers, each as `block` computes it."""
    for layer, norm in model.blocks():
        x = block(layer, norm, x)
    return x


def build(kind: str, shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Model:
    """A model whose parameters all want gradients; `set_density` is to follow."""
    sizes = (shape.d_model, shape.d_ff, 0.5, generator)
    count = KINDS[kind]
    layers = [drawn.draw(*sizes, gated=shape.gated, dtype=dtype) for _ in range(count)]
    norms = [nn.LayerNorm(shape.d_model, dtype=dtype) for _ in range(count if count > 1 else 0)]
    return Model(layers, norms).train()


@torch.no_grad()
def set_density(model: Model, density: float) -> None:
    """So many neurons are positive for normal x: after a norm, too, each number's square is 1 in
    the mean."""
    for layer, _ in model.blocks():
        (layer.gate or layer.up).bias.fill_(NormalDist().inv_cdf(density))


@dataclass(frozen=True)
class Batch:
    """x, a leaf that wants its gradient, and the gradient dy of the output, (tokens, d_model);
    active: the share of active neurons."""

    x: Tensor
    dy: Tensor
    active: float


@torch.no_grad()
def draw_batch(model: Model, tokens: int, generator: torch.Generator) -> Batch:
    """Normal x and dy; see NEAR."""
    weight = next(model.parameters())
    wide = copy.deepcopy(model).float()
    layer, _ = next(model.blocks())
    x, dy = torch.randn(2, tokens, layer.d_model, generator=generator).to(weight.dtype)
    active, left = torch.zeros(tokens), torch.arange(tokens)
    for _ in range(TRIES):
        near, active[left] = _look(wide, x[left].float())
        left = left[near]
        if not len(left):
            break
        x[left] = torch.randn(len(left), layer.d_model, generator=generator).to(x.dtype)
    return Batch(x.clone().requires_grad_(), dy.clone(), float(active.mean()))


def _look(model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    """For each token: whether a pre-activation is near 0, and the share of those above."""
    near, above = torch.zeros(len(x), dtype=torch.bool), torch.zeros(len(x))
    for layer, norm in model.blocks():
        z = (layer.gate or layer.up)(x)
        near |= (z.abs() < NEAR).any(1)
        above += (z > 0).float().mean(1) / len(model.layers)
        x = plain(layer, norm, x)
    return near, above


def forget(model: Model, x: Tensor) -> None:
    """Set all gradients to None."""
    for leaf in (x, *model.parameters()):
        leaf.grad = None


def results(model: Model, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The output and, after the backward pass, all gradients, by name."""
    found = {"y": y.detach(), "x": x.grad}
    found |= {name: weight.grad for name, weight in model.named_parameters()}
    return {name: t for name, t in found.items() if t is not None}


def reference(model: Model, batch: Batch) -> dict[str, Tensor]:
    """`results` by autograd in float64."""
    exact = copy.deepcopy(model).double()
    x = batch.x.detach().double().requires_grad_()
    y = exact(x)
    y.backward(batch.dy.double())
    return results(exact, x, y)


def errors(found: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """Relative errors by kind of tensor ("y", "x", "up.weight", "norm.bias" ...), of several layers
    the largest. A gradient that is not there is infinitely wrong."""
    kinds: dict[str, list[float]] = {}
    for name, exact in truth.items():
        error = relative_error(found[name], exact) if name in found else float("inf")
        kinds.setdefault(_kind(name), []).append(error)
    return {kind: worst(each) for kind, each in kinds.items()}


def worst(numbers: Iterable[float]) -> float:
    """The largest, or a NaN, if there is one.

    >>> worst([1.0, float("nan"), 2.0])
    nan
    """
    return max(numbers, key=lambda number: (isnan(number), number))


def relative_error(value: Tensor, truth: Tensor) -> float:
    """As `layer.relative_error`; of a truth that is all zeros, 0 or infinity.

    >>> relative_error(torch.ones(1), torch.zeros(1)), relative_error(*torch.zeros(2, 1))
    (inf, 0.0)
    """
    if not truth.any():
        return float("inf") if value.any() else 0.0
    return drawn.relative_error(value, truth)


def _kind(name: str) -> str:
    """
    >>> [_kind(name) for name in ("x", "layers.3.up.weight", "norms.3.bias")]
    ['x', 'up.weight', 'norm.bias']
    """
    part, *rest = name.split(".")
    return ".".join(["norm", rest[1]] if part == "norms" else rest[1:] if rest else [part])
