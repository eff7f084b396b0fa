"""torch.nn.Transformer in a model of its own, which tests of its conversion compare with."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.transformer import Transformer

V_SOURCE, V_TARGET, D, HEADS, D_FF, PAD = 23, 19, 16, 4, 40, 0
# a row without padding, one with some at its end, one with some before and in between
SOURCE = torch.tensor([[5, 7, 2, 9, 1, 3], [4, 8, 22, 0, 0, 0], [0, 6, 3, 0, 2, 7]])
TARGET = torch.tensor([[1, 4, 5, 6], [1, 18, 0, 0], [1, 9, 9, 0]])


def positions(length: int, dtype: torch.dtype) -> Tensor:
    """Section 3.5 as it is written: pos / 10000^(2i / d), in Python's own floats."""
    table = [
        [(math.cos if i % 2 else math.sin)(pos / 10000 ** (2 * (i // 2) / D)) for i in range(D)]
        for pos in range(length)
    ]
    return torch.tensor(table, dtype=dtype)


class Theirs(nn.Module):
    """torch.nn.Transformer with what its users build around it."""

    def __init__(self, dtype: torch.dtype = torch.float64, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = {"num_encoder_layers": 2, "num_decoder_layers": 3, "dim_feedforward": D_FF}
        self.transformer = nn.Transformer(
            D, HEADS, **(sizes | {"dropout": 0.0, "batch_first": True} | options)
        )
        self.source, self.target = nn.Embedding(V_SOURCE, D), nn.Embedding(V_TARGET, D)
        self.output = nn.Linear(D, V_TARGET)
        self.positions: tuple[Tensor, Tensor] | None = None
        self.to(dtype)
        with torch.no_grad():
            for parameter in self.transformer.parameters():  # biases and norms that matter
                parameter.add_(0.1 * torch.randn_like(parameter))

    def ours(self, **options: Any) -> Transformer:
        model: Transformer = Transformer.from_torch(
            *(self.transformer, self.source),
            **({"target_embedding": self.target, "output": self.output} | options),
        )
        return model

    def position(self, side: int, length: int) -> Tensor:
        if self.positions is None:
            return positions(length, self.source.weight.dtype)
        return self.positions[side][:length]

    def forward(self, source: Tensor, target: Tensor, pad: int | None = None) -> Tensor:
        first = self.transformer.batch_first
        x, y = (
            embed(ids) * math.sqrt(D) + self.position(side, ids.size(1))
            for side, embed, ids in ((0, self.source, source), (1, self.target, target))
        )
        padding = None if pad is None else source == pad
        out = self.transformer(
            *((x, y) if first else (x.transpose(0, 1), y.transpose(0, 1))),
            tgt_mask=torch.ones(y.size(1), y.size(1), dtype=torch.bool).triu(1),
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            tgt_key_padding_mask=None if pad is None else target == pad,
        )
        return self.output(out if first else out.transpose(0, 1))
