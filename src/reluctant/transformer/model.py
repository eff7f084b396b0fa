"""The Transformer of figure 1."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.errors import ReluctantError
from reluctant.transformer.cache import Cache
from reluctant.transformer.config import TransformerConfig
from reluctant.transformer.layers import Decoder, Encoder, PositionalEncoding, embedding_norm


class Transformer(nn.Module):
    """Vaswani et al. 2017, "Attention Is All You Need". Figure 1, from bottom to top:

        input_embedding + input_positions      output_embedding + output_positions
        encoder                                decoder
                                               linear

    The softmax at its top is in the loss, and in the decoding: the model gives logits.

    Sources may be padded anywhere, targets at their end, where the causal mask keeps padding from
    what is before it. No position looks at a source's padding; of a source that is nothing else,
    the decoder sees nothing: its answer is finite, and the same for any number of such positions.

    >>> _ = torch.manual_seed(0)
    >>> config = TransformerConfig(50, d_model=16, heads=2, d_ff=64, decoder_layers=2)
    >>> model = Transformer(config).eval()
    >>> source, target = torch.randint(3, 50, (2, 9)), torch.randint(3, 50, (2, 7))
    >>> logits = model(source, target)
    >>> logits.shape
    torch.Size([2, 7, 50])
    >>> cache = model.start(source)
    >>> steps = [model.decode(target[:, i : i + 1], cache) for i in range(7)]
    >>> torch.allclose(torch.cat(steps, 1), logits, atol=1e-5)
    True
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        gradients: dict[str, Any] = {"sparse": config.sparse}
        gradients |= {"scale_grad_by_freq": config.scale_grad_by_freq}
        self.input_embedding = nn.Embedding(
            *(config.source_vocab, config.d_model, config.source_padding_idx), **gradients
        )
        self.input_positions = PositionalEncoding(config)
        self.input_norm = embedding_norm(config)
        self.encoder = Encoder(config)
        shared = self.input_embedding.weight if config.target_vocab is None else None
        # A module of its own, too, where the weight is shared: in one with two names torch.func's
        # functional_call leaves behind what it was lent.
        self.output_embedding = nn.Embedding(
            *(config.targets, config.d_model, config.target_padding_idx),
            **(gradients if shared is None else gradients | {"_weight": shared.detach()}),
        )
        if shared is not None:
            self.output_embedding.weight = shared
        self.output_positions = PositionalEncoding(config)
        self.output_norm = embedding_norm(config)
        if config.positions == "learned" and config.tied_positions:
            self.output_positions.table = self.input_positions.table
        self.decoder = Decoder(config)
        self.linear = nn.Linear(config.d_model, config.targets, config.output_bias)
        if config.tied:
            self.linear.weight = self.output_embedding.weight
        dropout = config.embedding_dropout
        self.dropout = nn.Dropout(config.dropout if dropout is None else dropout)
        self.scale = config.embedding_scale or math.sqrt(config.d_model)
        self._initialise()

    def _initialise(self) -> None:
        """Glorot for the matrices; embeddings that have a variance of 1 once they are scaled."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        sides = [self.input_embedding, self.output_embedding]
        for embedding in sides if self.config.target_vocab is not None else sides[:1]:
            nn.init.normal_(embedding.weight, std=1 / self.scale)
        for embedding in sides:
            if embedding.padding_idx is not None:
                with torch.no_grad():
                    embedding.weight[embedding.padding_idx].zero_()
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @classmethod
    def from_torch(cls, theirs: nn.Transformer, source_embedding: nn.Embedding, **kw: Any) -> Any:
        """See `reluctant.transformer.convert.from_torch`, which this is."""
        from reluctant.transformer.convert import from_torch  # noqa: PLC0415  imports this module

        return from_torch(theirs, source_embedding, **kw)

    @classmethod
    def from_hugging_face(cls, theirs: nn.Module) -> Any:
        """See `reluctant.transformer.hugging_face.from_hugging_face`, which this is."""
        from reluctant.transformer.hugging_face import from_hugging_face  # noqa: PLC0415  as above

        return from_hugging_face(theirs)

    def get_output_embeddings(self) -> nn.Linear:
        """The last linear map, under the name by which it is asked for in transformers' models."""
        return self.linear

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits (batch, n, target_vocab) of the token after each of the target's.

        source: token ids (batch, m); target: (batch, n), its first is `bos`.
        Raises ReluctantError for ids of another shape or dtype or that are not in the vocabulary,
        and for more positions than a table has.
        """
        if target.shape[:1] != source.shape[:1]:
            raise ReluctantError(
                f"expected as many targets as sources, got {tuple(target.shape)} and "
                f"{tuple(source.shape)}"
            )
        return self.decode(target, self.start(source))

    def encode(self, source: Tensor) -> Tensor:
        """The encoder's output (batch, m, d_model) for token ids (batch, m)."""
        sides = self.input_embedding, self.input_positions, self.input_norm
        memory: Tensor = self.encoder(self._embed(source, *sides), self.padding_mask(source))
        return memory

    def start(self, source: Tensor) -> Cache:
        """Encode token ids (batch, m), and get ready to decode."""
        return self.decoder.start(self.encode(source), self.padding_mask(source))

    def decode(self, target: Tensor, cache: Cache) -> Tensor:
        """Logits (rows, n, target_vocab) of the tokens after the target's next n, ids (rows, n).

        rows: as many as sources, or a multiple: the hypotheses of one source side by side. The
        cache grows by n positions. Made for `torch.no_grad()`: gradients flow through a cache's
        first call only.
        """
        logits: Tensor = self.linear(self.hidden(target, cache))
        return logits

    def hidden(self, target: Tensor, cache: Cache) -> Tensor:
        """What `decode` makes logits of: (rows, n, d_model); otherwise as `decode`."""
        sides = self.output_embedding, self.output_positions, self.output_norm
        y: Tensor = self.decoder(self._embed(target, *sides, start=cache.length), cache)
        return y

    def padding_mask(self, source: Tensor) -> Tensor | None:
        """True at the tokens (batch, 1, 1, m) of ids (batch, m); None if there is no padding id."""
        pad = self.config.pad
        return None if pad is None else (source != pad)[:, None, None]

    def _embed(
        self,
        ids: Tensor,
        embedding: nn.Embedding,
        positions: PositionalEncoding,
        norm: nn.Module,
        start: int = 0,
    ) -> Tensor:
        if ids.dim() != 2 or not ids.size(1) or ids.dtype not in (torch.int32, torch.int64):
            raise ReluctantError(
                "expected token ids (batch, length) of int64 or int32, with length at least 1; "
                f"got {tuple(ids.shape)} {ids.dtype}"
            )
        try:
            x = embedding(ids)
        except IndexError as error:
            raise ReluctantError(
                f"expected token ids from 0 to {embedding.num_embeddings - 1}, got "
                f"{int(ids.min())} to {int(ids.max())}: is this the model's own vocabulary?"
            ) from error
        out: Tensor = self.dropout(norm(positions(x * self.scale, start)))
        return out
