"""The model: decoder-only, pre-norm, ReLU, learned positions, tied output projection."""

import hashlib
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Of the model, but for its vocabulary and the number of its positions."""

    d_model: int = 512
    d_ff: int = 2048
    layers: int = 6
    heads: int = 8


class Block(nn.Module):
    """Attention to what came before, and a feed-forward layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d_model, self.heads = shape.d_model, shape.heads
        self.norm_1, self.norm_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.queries_keys_values = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, shape.d_ff), nn.ReLU(), nn.Linear(shape.d_ff, d_model)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (rows, length, d_model), the same shape."""
        x = x + self._attend(self.norm_1(x))
        out: Tensor = x + self.feed_forward(self.norm_2(x))
        return out

    def _attend(self, x: Tensor) -> Tensor:
        rows, length, d_model = x.shape
        three = self.queries_keys_values(x).view(rows, length, 3, self.heads, -1)
        queries, keys, values = three.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        out: Tensor = self.out(y.transpose(1, 2).reshape(rows, length, d_model))
        return out


class LanguageModel(nn.Module):
    """Logits of the next token. Initialised as GPT-2 is, by torch's seed.

    >>> model = LanguageModel(Shape(16, 64, 2, 2), vocabulary=50, positions=8)
    >>> model(torch.zeros(3, 8, dtype=torch.int64)).shape
    torch.Size([3, 8, 50])
    """

    def __init__(self, shape: Shape, vocabulary: int, positions: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, shape.d_model)
        self.positions = nn.Parameter(torch.zeros(positions, shape.d_model))
        self.blocks = nn.Sequential(*(Block(shape) for _ in range(shape.layers)))
        self.norm = nn.LayerNorm(shape.d_model)
        for name, parameter in self.named_parameters():
            into_residual = name.endswith(("out.weight", "feed_forward.2.weight"))
            if parameter.dim() > 1:
                std = 0.02 / math.sqrt(2 * shape.layers) if into_residual else 0.02
                nn.init.normal_(parameter, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (rows, length); logits (rows, length, vocabulary)."""
        x = self.embedding(ids) + self.positions[: ids.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.embedding.weight)

    def activations(self) -> list[nn.Module]:
        """The layers' ReLUs, from bottom to top."""
        return [module for module in self.modules() if isinstance(module, nn.ReLU)]

    def fingerprint(self) -> str:
        """Of the weights' bits."""
        digest = hashlib.sha256()
        for parameter in self.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        return digest.hexdigest()[:16]
