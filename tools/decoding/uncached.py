"""A model's weights in torch.nn.Transformer, which remembers nothing from step to step."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.transformer.layers import sinusoids
from reluctant.transformer.model import Transformer
from tools.decoding.weights import POSITIONS, expect_plain


@dataclass
class Sources:
    """All there is to decode from; nothing of the targets.

    states: the encoder's output (batch, m, d_model). padding: (batch, m), True there, or None.
    The rest is what a search asks of a cache: nothing has been cached, so each step brings a
    target's whole prefix.
    """

    states: Tensor
    padding: Tensor | None
    memory_mask: None = None
    length: int = 0

    def reorder(self, rows: Tensor) -> None:
        """Hypotheses change places among those of one source: nothing here changes."""

    def repeat(self, times: int) -> None:
        """As many rows as there are hypotheses, those of one source side by side."""
        if times > 1:
            self.states = self.states.repeat_interleave(times, 0)
            if self.padding is not None:
                self.padding = self.padding.repeat_interleave(times, 0)


class Uncached(nn.Module):
    """What `greedy` and `beam_search` ask of a `Transformer`, answered by torch's own modules.

    Sources are encoded once; the decoder computes all positions of the prefix in every step, and
    the last linear map that of its last position alone. The weights are copies.

    Raises ReluctantError for a model that torch.nn.Transformer cannot be made into.

    >>> from reluctant.transformer import TransformerConfig, greedy
    >>> config = TransformerConfig(50, d_model=16, heads=2, d_ff=64, norm_first=True)
    >>> model, source = Transformer(config).eval(), torch.tensor([[5, 7, 2]])
    >>> bool((greedy(Uncached(model), source) == greedy(model, source)).all())
    True
    """

    positions: Tensor

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.config, self.scale = model.config, model.scale
        self.transformer = to_torch(model)
        self.embedding = nn.Embedding(model.config.source_vocab, model.config.d_model)
        self.embedding.load_state_dict(model.input_embedding.state_dict())
        self.linear = nn.Linear(model.config.d_model, model.config.source_vocab, bias=False)
        self.linear.weight = self.embedding.weight
        self.register_buffer("positions", sinusoids(POSITIONS, model.config.d_model).float())
        self.eval()

    def start(self, source: Tensor) -> Sources:
        """Encode token ids (batch, m)."""
        padding: Any = source == self.config.pad
        padding = padding if padding.any() else None
        states = self.transformer.encoder(self._embed(source), src_key_padding_mask=padding)
        return Sources(states, padding)

    def decode(self, target: Tensor, sources: Sources) -> Tensor:
        """Logits (rows, 1, vocabulary) of the token after target, ids (rows, n) from `bos` on."""
        sources.repeat(len(target) // len(sources.states))
        n = target.size(1)
        y = self.transformer.decoder(
            self._embed(target),
            sources.states,
            tgt_mask=torch.ones(n, n, dtype=torch.bool).triu(1),
            memory_key_padding_mask=sources.padding,
            tgt_is_causal=True,
        )
        logits: Tensor = self.linear(y[:, -1:])
        return logits

    def _embed(self, ids: Tensor) -> Tensor:
        x: Tensor = self.embedding(ids) * self.scale
        return x + self.positions[: ids.size(1)]


@torch.no_grad()
def to_torch(model: Transformer) -> nn.Transformer:
    """The layers of a model in torch.nn.Transformer, batch first, in eval mode; weights are copied.

    Raises ReluctantError for a model that it cannot be made into.
    """
    config = model.config
    expect_plain(config)
    sizes = (config.d_model, config.heads, config.d_ff, 0.0)
    how: dict[str, Any] = {"batch_first": True, "norm_first": True}
    how["layer_norm_eps"] = config.norm_eps
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(*sizes, **how),
        config.encoder_layers,
        nn.LayerNorm(config.d_model, config.norm_eps),
        enable_nested_tensor=False,  # torch would warn that it is not for pre-norm
    )
    made = nn.Transformer(
        *(config.d_model, config.heads, config.encoder_layers, config.decoder_layers),
        *(config.d_ff, 0.0),
        custom_encoder=encoder,
        **how,
    )
    for theirs, ours in ((made.encoder, model.encoder), (made.decoder, model.decoder)):
        _copy(theirs.norm, ours.norm)
        for their_layer, our_layer in zip(_layers(theirs), _layers(ours), strict=True):
            _copy_layer(their_layer, our_layer)
    return made.eval()


def _layers(stack: Any) -> Any:
    return stack.layers


def _copy_layer(theirs: Any, ours: Any) -> None:
    own = getattr(ours, "masked_multi_head_attention", None)
    if own is None:
        _copy_attention(theirs.self_attn, ours.multi_head_attention)
    else:
        _copy_attention(theirs.self_attn, own)
        _copy_attention(theirs.multihead_attn, ours.multi_head_attention)
        _copy(theirs.norm3, ours.add_norm_3.norm)
    _copy(theirs.norm1, ours.add_norm_1.norm)
    _copy(theirs.norm2, ours.add_norm_2.norm)
    _copy(theirs.linear1, ours.feed_forward.up)
    _copy(theirs.linear2, ours.feed_forward.down)


def _copy_attention(theirs: Any, ours: Any) -> None:
    """Torch keeps W^Q, W^K and W^V one below the other."""
    three = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.copy_(torch.cat([each.weight for each in three]))
    theirs.in_proj_bias.copy_(torch.cat([each.bias for each in three]))
    _copy(theirs.out_proj, ours.output)


def _copy(theirs: Any, ours: Any) -> None:
    theirs.weight.copy_(ours.weight)
    theirs.bias.copy_(ours.bias)
