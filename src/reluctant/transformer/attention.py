"""Multi-head attention."""

import torch.nn.functional as F
from torch import Tensor, nn

from reluctant.transformer.config import TransformerConfig


class MultiHeadAttention(nn.Module):
    """Vaswani et al. 2017, section 3.2 and the right half of figure 2.

    `query`, `key`, `value` and `output` are the paper's W^Q, W^K, W^V (of all heads) and W^O.

    >>> import torch
    >>> attention = MultiHeadAttention(TransformerConfig(50, d_model=16, heads=4))
    >>> attention(torch.zeros(2, 5, 16), torch.zeros(2, 7, 16)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.attention_dropout
        self.query = nn.Linear(config.d_model, config.d_model, config.bias)
        self.key = nn.Linear(config.d_model, config.d_model, config.bias)
        self.value = nn.Linear(config.d_model, config.d_model, config.bias)
        self.output = nn.Linear(config.d_model, config.d_model, config.bias)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let x (batch, n, d_model) attend to memory (batch, m, d_model): (batch, n, d_model).

        mask: broadcastable to (batch, heads, n, m); boolean, True where x may look, or floating,
        added to the scores. A query that may look nowhere gets the zero vector before W^O.
        """
        return self.attend(x, *self.keys_values(memory), mask)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of memory (batch, m, d_model), each (batch, heads, m, d_head)."""
        return self._split(self.key(memory)), self._split(self.value(memory))

    def attend(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        *,
        causal: bool = False,
    ) -> Tensor:
        """`forward` on keys and values; causal: position i sees the first i + 1 of n = m."""
        out: Tensor = self.output(self.mix(self._split(self.query(x)), keys, values, mask, causal))
        return out

    def mix(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool
    ) -> Tensor:
        """Section 3.2.1, of all heads side by side: (batch, n, d_model).

        queries, keys, values: (batch, heads, n or m, d_head); the rest as above.
        """
        dropout = self.dropout if self.training else 0.0
        heads = F.scaled_dot_product_attention(
            queries, keys, values, mask, dropout_p=dropout, is_causal=causal
        )
        return heads.transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, x.size(-1) // self.heads).transpose(1, 2)
