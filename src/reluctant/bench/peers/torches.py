"""PyTorch's own ways: eager, compiled by Inductor, and oneDNN with prepacked weights."""

import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.bench.peers.peer import Peer, function_of
from reluctant.feedforward import FeedForward


def eager(layers: Sequence[FeedForward], tokens: int) -> Peer:
    """The layers as they are."""
    return Peer("eager", layers)


def compiled(layers: Sequence[FeedForward], tokens: int) -> Peer:
    """`torch.compile` with freezing: Inductor packs the weights. It needs a C++ compiler.

    Without `max_autotune`: at one token it took 15 s a shape to become no faster (float32).
    """
    from torch._inductor import config  # noqa: PLC0415  loads half a compiler

    calls = []
    with torch.inference_mode(False):  # code for an inference tensor serves no other
        x = torch.zeros(tokens, layers[0].d_model, dtype=layers[0].up.weight.dtype)
    with config.patch(freezing=True, compile_threads=1):  # no pool of idle processes
        for layer in layers:
            call = torch.compile(_traceable(layer), fullgraph=True, dynamic=False)
            call(x)
            calls.append(call)
    return Peer("compile", calls)


def _traceable(layer: FeedForward) -> Callable[[Tensor], Tensor]:
    up, gate, down, activation = layer.up, layer.gate, layer.down, function_of(layer)

    def call(x: Tensor) -> Tensor:
        h = activation(up(x)) if gate is None else activation(gate(x)) * up(x)
        y: Tensor = down(h)
        return y

    # A code object of its own: else each call tries the guards of all layers before, and after
    # eight of them the compiler gives up.
    return types.FunctionType(call.__code__.replace(), call.__globals__, closure=call.__closure__)


def onednn(layers: Sequence[FeedForward], tokens: int) -> Peer:
    """oneDNN through PyTorch's private operators: what Inductor emits when it freezes weights."""
    linear = torch.ops.mkldnn._linear_pointwise
    algorithm = "none" if layers[0].activation.name == "gelu" else ""
    fused: tuple[str, list[float], str] = (layers[0].activation.name, [], algorithm)
    function_of(layers[0])  # it has to be one of the two

    def packed(part: nn.Linear) -> tuple[Tensor, Tensor]:
        # The operators are there in every build; without oneDNN this raises RuntimeError.
        weight = part.weight.detach()
        return torch.ops.mkldnn._reorder_linear_weight(weight, tokens), part.bias.detach()

    def one(layer: FeedForward) -> Callable[[Tensor], Any]:
        (w1, b1), (w2, b2) = packed(layer.up), packed(layer.down)
        if layer.gate is None:
            return lambda x: linear(linear(x, w1, b1, *fused), w2, b2, "none", [], "")
        wg, bg = packed(layer.gate)
        product = torch.ops.mkldnn._linear_pointwise.binary

        def gated(x: Tensor) -> Any:
            h = product(x, linear(x, wg, bg, *fused), w1, b1, "mul")
            return linear(h, w2, b2, "none", [], "")

        return gated

    return Peer("oneDNN", [one(layer) for layer in layers])


@contextmanager
def compiler_reset() -> Iterator[None]:
    """What torch.compile has made holds its weights until it is told to forget."""
    try:
        yield
    finally:
        torch._dynamo.reset()
