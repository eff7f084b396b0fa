"""The boxes of the paper's figure 1, under their names: Vaswani et al. 2017, section 3."""

import functools
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from reluctant.errors import ReluctantError
from reluctant.feedforward import FeedForward
from reluctant.transformer.attention import MultiHeadAttention
from reluctant.transformer.cache import Cache, KeyValues, Past
from reluctant.transformer.config import TransformerConfig


def sinusoids(length: int, d_model: int, xp: Any = torch) -> Any:
    """Section 3.5: sin(p / 10000^(i / d_model)) at even i, the cosine after it; float64.

    xp: torch or numpy, which makes it.

    >>> sinusoids(2, 4)[0]
    tensor([0., 1., 0., 1.], dtype=torch.float64)
    """
    kind: dict[str, Any] = {"dtype": xp.float64, "device": "cpu"}
    rates = 10000.0 ** (-xp.arange(0, d_model, 2, **kind) / d_model)
    angles = xp.arange(length, **kind)[:, None] * rates
    return xp.stack([xp.sin(angles), xp.cos(angles)], -1).reshape(-1, d_model)


@functools.lru_cache(maxsize=8)
def _kept_sinusoids(length: int, d_model: int) -> Any:
    """Kept as numpy's: none of torch's modes and transforms is in an array, nor can it leave one.

    A tensor made under fake tensors, inference mode or torch.func would be no good afterwards.
    """
    return sinusoids(length, d_model, numpy)


class PositionalEncoding(nn.Module):
    """Adds to each position a vector that tells where it is."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        table = torch.zeros(config.max_positions, config.d_model)
        self.register_buffer("table", table if config.positions == "fixed" else None)
        if config.positions == "learned":
            self.table = nn.Parameter(table)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """x: (batch, n, d_model), of which the first is position `start`; the same shape."""
        stop = start + x.size(1)
        if self.table is None:
            return x + self._sinusoidal(x, start, stop)
        if len(self.table) < stop:
            raise ReluctantError(
                f"expected at most max_positions={len(self.table)} positions, got {stop}: shorten "
                "the input, or train a model with more positions"
            )
        return x + self.table[start:stop]

    @staticmethod
    def _sinusoidal(x: Tensor, start: int, stop: int) -> Tensor:
        if torch.compiler.is_compiling() or not isinstance(stop, int):  # a tracer's symbol
            table: Tensor = sinusoids(stop, x.size(-1))[start:]
            return table.to(x.device, x.dtype)
        kept = _kept_sinusoids(max(256, 1 << (stop - 1).bit_length()), x.size(-1))
        return torch.tensor(kept[start:stop], dtype=x.dtype, device=x.device)


class AddNorm(nn.Module):
    """Add & Norm around a sub-layer: norm(x + dropout(sublayer(x))), sections 3.1 and 5.4.

    Pre-norm (Xiong et al. 2020, figure 1): x + dropout(sublayer(norm(x))).
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.d_model, config.norm_eps, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)
        self.norm_first = config.norm_first

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """x: (batch, n, d_model), as what the sub-layer makes of it, and the result."""
        if self.norm_first:
            x = x + self.dropout(sublayer(self.norm(x)))
        else:
            x = self.norm(x + self.dropout(sublayer(x)))
        return x


def _feed_forward(config: TransformerConfig) -> FeedForward:
    sizes, dropout = (config.d_model, config.d_ff), config.activation_dropout
    return FeedForward(*sizes, config.activation, bias=config.bias, dropout=dropout)


def embedding_norm(config: TransformerConfig) -> nn.Module:
    """Of embedded tokens with their positions; most models have none."""
    if not config.embedding_norm:
        return nn.Identity()
    return nn.LayerNorm(config.d_model, config.norm_eps, bias=config.bias)


def _final_norm(config: TransformerConfig, wanted: bool | None) -> nn.Module:
    if not (config.norm_first if wanted is None else wanted):
        return nn.Identity()
    return nn.LayerNorm(config.d_model, config.final_norm_eps or config.norm_eps, bias=config.bias)


class EncoderLayer(nn.Module):
    """The left block of figure 1."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.multi_head_attention = MultiHeadAttention(config)
        self.add_norm_1 = AddNorm(config)
        self.feed_forward = _feed_forward(config)
        self.add_norm_2 = AddNorm(config)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (batch, n, d_model), the same shape; mask as in MultiHeadAttention."""
        x = self.add_norm_1(x, lambda x: self.multi_head_attention(x, x, mask))
        out: Tensor = self.add_norm_2(x, self.feed_forward)
        return out


class Encoder(nn.Module):
    """N encoder layers; x and mask as there."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.norm = _final_norm(config, config.encoder_norm)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        out: Tensor = self.norm(x)
        return out


class DecoderLayer(nn.Module):
    """The right block of figure 1."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.masked_multi_head_attention = MultiHeadAttention(config)
        self.add_norm_1 = AddNorm(config)
        self.multi_head_attention = MultiHeadAttention(config)
        self.add_norm_2 = AddNorm(config)
        self.feed_forward = _feed_forward(config)
        self.add_norm_3 = AddNorm(config)

    def forward(self, y: Tensor, past: Past, memory_mask: Tensor | None = None) -> Tensor:
        """y: the target's next n positions (rows, n, d_model), the same shape; adds to the past."""
        y = self.add_norm_1(y, lambda y: self._attend_to_target(y, past.target))
        y = self.add_norm_2(y, lambda y: self._attend_to_memory(y, past.memory, memory_mask))
        out: Tensor = self.add_norm_3(y, self.feed_forward)
        return out

    def _attend_to_target(self, y: Tensor, past: KeyValues) -> Tensor:
        attention, n, start = self.masked_multi_head_attention, y.size(1), past.length
        keys, values = past.append(*attention.keys_values(y))
        if start == 0 or n == 1:  # a single position may look at all before it
            return attention.attend(y, keys, values, causal=start == 0)
        mask = y.new_ones(n, start + n, dtype=torch.bool).tril(start)
        return attention.attend(y, keys, values, mask)

    def _attend_to_memory(
        self, y: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        # the hypotheses of one source are further queries: its memory is not repeated
        sources = memory[0].size(0)
        x = y.reshape(sources, y.size(0) * y.size(1) // max(sources, 1), y.size(2))
        return self.multi_head_attention.attend(x, *memory, mask).view_as(y)


class Decoder(nn.Module):
    """N decoder layers."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = _final_norm(config, config.decoder_norm)

    def start(self, memory: Tensor, memory_mask: Tensor | None = None) -> Cache:
        """An empty cache. memory: (batch, m, d_model); mask: (batch or 1, 1, 1, m)."""
        attentions: list[Any] = [layer.multi_head_attention for layer in self.layers]
        layers = [Past(KeyValues(), attention.keys_values(memory)) for attention in attentions]
        return Cache(layers, memory_mask, memory.size(0))

    def forward(self, y: Tensor, cache: Cache) -> Tensor:
        """y: the target's next n positions (rows, n, d_model), the same shape; adds to the cache.

        rows: the number of sources, or a multiple of it: the hypotheses of one source side by
        side; in later calls as many as in the first. Raises ReluctantError for other numbers.
        """
        rows, sources = y.size(0), cache.sources
        if cache.rows not in (None, rows) or (rows % sources if sources else rows):
            raise ReluctantError(
                f"expected target rows in a multiple of the {sources} sources, and as many as in "
                f"the step before ({cache.rows}); got {rows}"
            )
        for layer, past in zip(self.layers, cache.layers, strict=True):
            y = layer(y, past, cache.memory_mask)
        cache.rows, cache.length = rows, cache.length + y.size(1)
        out: Tensor = self.norm(y)
        return out
