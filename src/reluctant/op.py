"""The engine as an operator of PyTorch, for `torch.compile`. Without gradients: `op_training` has a
training step.

It takes every tensor it may read, so one compiled graph serves all layers of a shape. `handle`
belongs to the engine that holds the sketch of these weights. Where that engine is not to be found -
in another process, an exported program, a copy of the weights - the operator is dense.
"""

import weakref
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from reluctant import dense
from reluctant.activations import Activation, resolve
from reluctant.errors import ReluctantError
from reluctant.weights import Neurons


class Server(Protocol):
    """What the operator asks of an engine."""

    neurons: Neurons

    def forward(self, x: Tensor) -> Tensor:
        """The layer, without autograd."""


_servers: "weakref.WeakValueDictionary[int, Server]" = weakref.WeakValueDictionary()
_unregistered: "weakref.WeakValueDictionary[str, Activation]" = weakref.WeakValueDictionary()


def enlist(server: Server) -> Tensor:
    """A handle for this engine: a tensor, so that graphs take it as an input, not as a constant."""
    handle = torch.zeros(1, device="cpu")
    _servers[handle.data_ptr()] = server
    return handle


def label(activation: Activation) -> tuple[str, Activation]:
    """The string that stands for an activation in a graph: its name, made unique if need be.

    And what it stands for: it does as long as somebody holds that.
    """
    name, known = activation.name, _unregistered.get(activation.name)
    if known is None:
        try:
            known = resolve(name)
        except ReluctantError:
            known = _unregistered.setdefault(name, activation)
    if known == activation:
        return name, known
    return label(replace(activation, name=f"{name}'"))


def server_of(handle: Tensor) -> "Server | None":
    """The engine that a handle belongs to, if it is in this process."""
    return _servers.get(handle.data_ptr())


def activation_of(name: str) -> Activation:
    """What a label stands for."""
    return _unregistered.get(name) or resolve(name)


@torch.library.custom_op("reluctant::feed_forward", mutates_args=(), device_types=None)
def feed_forward(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    wg: Tensor | None,
    bg: Tensor | None,
    handle: Tensor,
    activation: str,
) -> Tensor:
    """down(f(up(x))) from W1 (d_ff, d_model), b1, W2 (d_model, d_ff), b2; gated with wg, bg."""
    server = server_of(handle)
    if server is not None:
        mine = server.neurons.tensors()
        if all(_same(a, b) for a, b in zip(mine, (w1, b1, w2, b2, wg, bg), strict=True)):
            return server.forward(x)
    gate = None if wg is None else (wg, bg)
    return dense.feed_forward(x, (w1, b1), (w2, b2), activation_of(activation), gate)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.dtype == b.dtype


@feed_forward.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
