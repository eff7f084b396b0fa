"""Who takes the same training step: torch in four ways, and ours.

All but ours read one model's parameters; each gets its own gradients. All are exact.
"""

import copy
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import reluctant
from reluctant.bench.peers import why
from reluctant.bench.peers.peer import UnavailableError
from reluctant.bench.train.model import Batch, Model, forget, plain, run
from reluctant.engine import Engine
from reluctant.feedforward import FeedForward

Forward = Callable[[Tensor], Tensor]
Part = tuple[Tensor, Tensor]  # weight and bias


@dataclass(frozen=True)
class Contender:
    """One way of computing `model`. engines: of ours."""

    name: str
    model: Model
    forward: Forward
    engines: tuple[Engine, ...] = ()

    def step(self, batch: Batch) -> Tensor:
        """Forward and backward, with new gradients; gives the output."""
        forget(self.model, batch.x)
        y = self.forward(batch.x)
        torch.autograd.backward(y, batch.dy)
        return y


def eager(model: Model, batch: Batch) -> Forward:
    """The layers as they are."""
    return model


def compiled(model: Model, batch: Batch) -> Forward:
    """`torch.compile` of one layer with what stands around it, once for all layers. It needs a C++
    compiler."""
    from torch._inductor import config  # noqa: PLC0415  loads half a compiler

    def of_parts(x: Tensor, *parts: Any) -> Tensor:
        return _of_parts(F.linear, x, *parts)

    code = torch.compile(of_parts, fullgraph=True, dynamic=False)

    def block(layer: FeedForward, norm: nn.LayerNorm | None, x: Tensor) -> Tensor:
        y: Tensor = code(x, *_parts(layer, norm))
        return y

    forward = partial(run, model, block)
    with config.patch(compile_threads=1):  # no pool of idle processes
        Contender("compile", model, forward).step(batch)
    return forward


def checkpointed(model: Model, batch: Batch) -> Forward:
    """Activation checkpointing: each layer, with what stands around it, keeps its x only."""

    def block(layer: FeedForward, norm: nn.LayerNorm | None, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(plain, layer, norm, x, use_reentrant=False)
        return y

    return partial(run, model, block)


def onednn(model: Model, batch: Batch) -> Forward:
    """All products by oneDNN, through the operator that Inductor emits; torch takes it for bfloat16
    anyway."""
    if next(model.parameters()).dtype is not torch.float32:
        raise UnavailableError

    def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = _OneDNN.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return y

    def block(layer: FeedForward, norm: nn.LayerNorm | None, x: Tensor) -> Tensor:
        return _of_parts(linear, x, *_parts(layer, norm))

    return partial(run, model, block)


class _OneDNN(torch.autograd.Function):
    """A linear map and its gradients, x (tokens, n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return _product(dy, weight.t()), _product(dy.t(), x.t()), dy.sum(0)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias. Without oneDNN the operator is missing, or raises RuntimeError."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def _parts(
    layer: FeedForward, norm: nn.LayerNorm | None
) -> tuple[Part | None, Part, Part, Part | None]:
    """Weights and biases: gate, up, down, norm."""
    gate = None if layer.gate is None else (layer.gate.weight, layer.gate.bias)
    around = None if norm is None else (norm.weight, norm.bias)
    return gate, (layer.up.weight, layer.up.bias), (layer.down.weight, layer.down.bias), around


def _of_parts(
    linear: Callable[[Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    gate: Part | None,
    up: Part,
    down: Part,
    norm: Part | None,
) -> Tensor:
    """A ReLU layer, and what stands around it, of its numbers alone."""
    if gate is None:
        h = torch.relu(linear(x, *up))
    else:
        h = torch.relu(linear(x, *gate)) * linear(x, *up)
    y = linear(h, *down)
    return y if norm is None else F.layer_norm(x + y, x.shape[-1:], *norm)


# Beside eager, which is always there: the yardstick.
BUILDERS: dict[str, Callable[[Model, Batch], Forward]] = {
    "compile": compiled,
    "checkpoint": checkpointed,
    "oneDNN": onednn,
}


def ours(model: Model) -> Contender:
    """A copy after `reluctant.optimize`."""
    forget(model, torch.empty(0))
    served = copy.deepcopy(model)
    engines = [entry.engine for entry in reluctant.optimize(served).swapped]
    return Contender("ours", served, served, tuple(e for e in engines if e is not None))


def build(
    model: Model, batch: Batch, names: Iterable[str] = tuple(BUILDERS)
) -> tuple[list[Contender], dict[str, str]]:
    """Eager and every named peer that can take a step here, and for the others the reason why not.

    names: of `BUILDERS`.
    """
    contenders, missing = [Contender("eager", model, eager(model, batch))], {}
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what goes on inside of others' packages
                made = Contender(name, model, BUILDERS[name](model, batch))
                made.step(batch)
                contenders.append(made)
        except UnavailableError:  # says nothing about this machine: there is no such thing
            continue
        except Exception as error:  # whatever ails a peer, the others are timed
            missing[name] = why(error)
    return contenders, missing
