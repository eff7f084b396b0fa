"""PyTorch's dynamically quantised linear maps: int8 weights, inputs quantised in every call."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.bench.peers.peer import Peer, function_of, to_int8
from reluctant.feedforward import FeedForward

X86_TOKENS = range(17)  # where the engine "x86" was faster than "onednn"


def dynamic(layers: Sequence[FeedForward], tokens: int) -> Peer:
    """What `torch.ao.quantization.quantize_dynamic` makes of the layers, without its modules."""
    linear = torch.ops.quantized.linear_dynamic
    activation = function_of(layers[0])

    def packed(part: nn.Linear) -> Any:
        q, scale = to_int8(part.weight)
        zeros = torch.zeros(len(q), dtype=torch.long)
        make = torch._make_per_channel_quantized_tensor
        weight = make(q, scale[:, 0].double(), zeros, 0)
        return torch.ops.quantized.linear_prepack(weight, part.bias.detach().float())

    def one(layer: FeedForward) -> Callable[[Tensor], Any]:
        up, down = packed(layer.up), packed(layer.down)
        if layer.gate is None:
            return lambda x: linear(activation(linear(x, up, True)), down, True)
        gate = packed(layer.gate)
        return lambda x: linear(activation(linear(x, gate, True)) * linear(x, up, True), down, True)

    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "x86" if tokens in X86_TOKENS else "onednn"
    try:
        calls = [one(layer) for layer in layers]
    finally:
        torch.backends.quantized.engine = before
    return Peer("torch int8", calls, wrap=lambda x: x.float(), exact=False)
