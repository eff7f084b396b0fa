"""A training step as operators of PyTorch, for `torch.compile`: forward and backward.

What is kept between them has a size that only the data tell; compilers take that as given. Handles
are those of `op`: where the engine that counts is not to be found, the step is the same, uncounted.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from reluctant import op, training, ways
from reluctant.training import step


@torch.library.custom_op("reluctant::train", mutates_args=(), device_types=None)
def train(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    wg: Tensor | None,
    bg: Tensor | None,
    handle: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The layer, x: (tokens, d_model), and, one-dimensional, what its backward pass needs."""
    call = _call(x, w1.numel(), op.server_of(handle), activation)
    weights = training.Weights(w1, b1, w2, b2, wg, bg)
    y, _, kept = step.forward(x, weights, call, 0)
    if step.is_sparse(kept):
        start, offset, neuron, z, *factor = kept
    else:
        z, *factor = kept
        start, offset, neuron = (x.new_empty(0, dtype=kind) for kind in _kinds(x, w1))
    factors = factor[0] if factor else x.new_empty(0)
    flat = (t.view(-1) for t in (start, offset, neuron, z, factors.to(_factors(x, wg))))
    return (y, *flat)  # type: ignore[return-value]


@train.register_fake
def _(x: Tensor, w1: Tensor, b1: Any, w2: Any, b2: Any, wg: Tensor | None, *_: Any) -> Any:
    size = torch.library.get_ctx().new_dynamic_size
    kept = (x.new_empty(size(), dtype=kind) for kind in (*_kinds(x, w1), x.dtype, _factors(x, wg)))
    return (x.new_empty(x.shape), *kept)


def _kinds(x: Tensor, w1: Tensor) -> tuple[torch.dtype, ...]:
    short = torch.uint16 if len(w1) < 2**16 else torch.int32
    return torch.int64, short, short


def _factors(x: Tensor, wg: Tensor | None) -> torch.dtype:
    return torch.float32 if wg is not None else x.dtype


def _call(x: Tensor, weights: int, server: Any, activation: str) -> training.Call:
    limits = ways.training_limits(str(x.dtype).removeprefix("torch."), weights, len(x))
    call = training.Call(op.activation_of(activation), *limits)
    return call if server is None else replace(call, seen=server.trainer.count)


@torch.library.custom_op("reluctant::train_backward", mutates_args=(), device_types=None)
def train_backward(
    dy: Tensor,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    wg: Tensor | None,
    bg: Tensor | None,
    kept: list[Tensor],
    wanted: list[bool],
    activation: str,
) -> list[Tensor]:
    """The gradients of x and of the six weights; empty where they are not wanted."""
    call, (start, offset, neuron, z, factor) = _call(x, w1.numel(), None, activation), kept
    shape, factors = (len(x), len(w1)), [] if wg is None else [factor]
    if start.numel():
        lists = [start, offset.view(len(x), -1), neuron, z, *factors]
    else:
        lists = [t.view(shape).to(x.dtype) for t in (z, *factors)]
    weights, size = training.Weights(w1, b1, w2, b2, wg, bg), dy.new_zeros((), dtype=torch.float32)
    if not step.are_exact(lists, weights, dy):
        lists = step.dense_instead(step.plainly(x), weights, lists, call)
    found = step.backward(x, weights, lists, call, dy, size, wanted)
    return [dy.new_empty(0) if t is None else t.contiguous() for t in found]


@train_backward.register_fake
def _(dy: Tensor, *given: Any) -> list[Tensor]:
    *inputs, _, wanted, _ = given
    some = zip(inputs, wanted, strict=True)
    return [dy.new_empty(t.shape if w and t is not None else (0,)) for t, w in some]


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, _, ctx.activation = inputs
    ctx.save_for_backward(*tensors, *output[1:])


def _backward(ctx: Any, dy: Tensor, *_: Any) -> Any:
    x, w1, b1, w2, b2, wg, bg, *kept = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:7])
    found = train_backward(dy, x, w1, b1, w2, b2, wg, bg, kept, wanted, ctx.activation)
    return *(t if w else None for t, w in zip(found, wanted, strict=True)), None, None


train.register_autograd(_backward, setup_context=_remember)
