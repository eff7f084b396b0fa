"""The weights of a torch.nn.Transformer in ours."""

from typing import Any

import torch
from torch import Tensor, nn

from reluctant.activations import identify, names
from reluctant.errors import ReluctantError
from reluctant.transformer.attention import MultiHeadAttention
from reluctant.transformer.config import TransformerConfig
from reluctant.transformer.layers import DecoderLayer
from reluctant.transformer.model import Transformer

Table = Tensor | nn.Embedding


def from_torch(
    theirs: nn.Transformer,
    source_embedding: nn.Embedding,
    *,
    target_embedding: nn.Embedding | None = None,
    output: nn.Linear | None = None,
    positions: Table | tuple[Table, Table] | None = None,
    embedding_scale: float | None = None,
    pad: int | None = None,
    bos: int = 1,
    eos: int = 2,
) -> Transformer:
    """Copy an nn.Transformer and what stands around it, which torch leaves to its users.

    target_embedding: None: the source's, shared. output: Linear(d_model, target_vocab); None: the
    target embedding's weights, tied. positions: added to the scaled embeddings, (length, d_model)
    or (1, length, d_model), of both sides or a pair: what requires a gradient is learned,
    else fixed; None: sinusoidal. embedding_scale: None: sqrt(d_model), as in the paper; 1 for
    none. pad, bos, eos: as in `TransformerConfig`; pad None: no padding mask.

    Batch first or not, pre- or post-norm, with or without last norms and biases; a bias that some
    modules lack is zero there. The result is in theirs' dtype, device and mode, and shares no
    memory with it. Raises ReluctantError for what it has no place for.

    >>> theirs = nn.Transformer(16, 2, 2, 2, 64, batch_first=True)
    >>> model = Transformer.from_torch(theirs, nn.Embedding(50, 16)).eval()
    >>> model(torch.ones(1, 5, dtype=torch.long), torch.ones(1, 3, dtype=torch.long)).shape
    torch.Size([1, 3, 50])
    """
    encoder, decoder = _stacks(theirs)
    final = [{"final_norm_eps": norm.eps} for norm in (encoder.norm, decoder.norm) if norm]
    facts = _same([_facts(layer) for layer in (*encoder.layers, *decoder.layers)]) | _same(final)
    tables = _tables(positions)
    if tables:
        learned = any(table.requires_grad for table in tables)
        facts |= {"positions": "learned" if learned else "fixed"}
        facts |= {"max_positions": tables[0].size(0)}
    source, target = source_embedding, target_embedding or source_embedding
    if source.max_norm is not None or target.max_norm is not None:
        raise ReluctantError("expected embeddings without max_norm, which changes their weights")
    config = TransformerConfig(
        source_vocab=source.num_embeddings,
        target_vocab=None if target is source else target.num_embeddings,
        encoder_layers=len(encoder.layers),
        decoder_layers=len(decoder.layers),
        encoder_norm=encoder.norm is not None,
        decoder_norm=decoder.norm is not None,
        bias=any(name.endswith("bias") for name, _ in theirs.named_parameters()),
        embedding_scale=embedding_scale,
        tied=output is None or output.weight is target.weight,
        output_bias=output is not None and output.bias is not None,
        pad=pad,
        bos=bos,
        eos=eos,
        **facts,
    )
    like = next(theirs.parameters())
    ours = Transformer(config).to(like).train(theirs.training)
    _copy(ours.input_embedding, source, "source_embedding")
    _copy(ours.output_embedding, target, "target_embedding")
    if output is not None:
        _copy(ours.linear, output, "output")
    for side, table in zip((ours.input_positions, ours.output_positions), tables, strict=False):
        _fill(side.table, table, "positions")
    for name, stack, given in (
        ("encoder", ours.encoder, encoder),
        ("decoder", ours.decoder, decoder),
    ):
        for i, (layer, given_layer) in enumerate(zip(stack.layers, given.layers, strict=True)):
            _copy_layer(layer, given_layer, f"{name}.layers.{i}")
        if given.norm is not None:
            _copy(stack.norm, given.norm, f"{name}.norm")
    return ours


def _stacks(theirs: nn.Transformer) -> tuple[Any, Any]:
    """Encoder and decoder, known to be torch's own code all through."""
    if not isinstance(theirs, nn.Transformer):
        raise ReluctantError(f"expected an nn.Transformer, got {type(theirs).__name__}")
    encoder: Any = theirs.encoder
    decoder: Any = theirs.decoder
    _expect(encoder, nn.TransformerEncoder)
    _expect(decoder, nn.TransformerDecoder)
    for stack, cls in (
        (encoder, nn.TransformerEncoderLayer),
        (decoder, nn.TransformerDecoderLayer),
    ):
        for layer in stack.layers:
            _expect(layer, cls)
        if stack.norm is not None:
            _expect(stack.norm, nn.LayerNorm)
    return encoder, decoder


@torch.enable_grad()  # a row of a Parameter stays one that is learned
def _tables(positions: Table | tuple[Table, Table] | None) -> list[Tensor]:
    """The source's and the target's, (length, d_model) each; none for sinusoids."""
    if positions is None:
        return []
    pair = positions if isinstance(positions, tuple) else (positions, positions)
    tables = [table.weight if isinstance(table, nn.Embedding) else table for table in pair]
    if not all(isinstance(table, Tensor) and table.dim() in (2, 3) for table in tables):
        raise ReluctantError("positions: expected one table, a pair of tables, or None")
    return [table if table.dim() == 2 else table[0] for table in tables]


def _expect(module: object, cls: type[nn.Module]) -> None:
    """Refuse what may compute something else than torch's own class."""
    kind = getattr(type(module), "_unserved", type(module))  # of a module that an engine serves
    methods = ("forward", "_sa_block", "_mha_block", "_ff_block")
    if not isinstance(module, cls) or any(
        getattr(kind, m, None) is not getattr(cls, m, None) for m in methods
    ):
        raise ReluctantError(f"expected a plain nn.{cls.__name__}, got {kind.__name__}")


def _facts(layer: Any) -> dict[str, Any]:
    """What the config says of a layer of torch's."""
    attentions = [getattr(layer, n) for n in ("self_attn", "multihead_attn") if hasattr(layer, n)]
    for attention in attentions:
        if attention.in_proj_weight is None or attention.bias_k is not None:
            raise ReluctantError("expected attention without kdim, vdim and add_bias_kv")
        if attention.add_zero_attn:
            raise ReluctantError("expected attention without add_zero_attn")
    activation = identify(layer.activation)
    if activation is None:
        raise ReluctantError(
            f"expected an activation of {', '.join(names())}; got {layer.activation!r}: "
            "reluctant.register_activation makes it known"
        )
    norms = [norm for name, norm in layer.named_children() if name.startswith("norm")]
    for norm in norms:
        _expect(norm, nn.LayerNorm)
    own = {
        "d_model": layer.linear1.in_features,
        "d_ff": layer.linear1.out_features,
        "activation": activation.name if activation.name in names() else activation,
        "dropout": layer.dropout1.p,
        "activation_dropout": layer.dropout.p,
        "norm_first": layer.norm_first,
    }
    of_attentions = [{"heads": a.num_heads, "attention_dropout": a.dropout} for a in attentions]
    return own | _same(of_attentions) | _same([{"norm_eps": norm.eps} for norm in norms])


def _same(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """The facts that all agree on, which have to be all of them."""
    for other in facts[1:]:
        for name, value in other.items():
            if value != facts[0][name]:
                raise ReluctantError(
                    f"expected one {name} throughout, got {facts[0][name]!r} and {value!r}"
                )
    return facts[0] if facts else {}


def _copy_layer(ours: Any, theirs: Any, name: str) -> None:
    pairs = [(ours.feed_forward.up, theirs.linear1), (ours.feed_forward.down, theirs.linear2)]
    pairs += [(ours.add_norm_1.norm, theirs.norm1), (ours.add_norm_2.norm, theirs.norm2)]
    if isinstance(ours, DecoderLayer):
        pairs.append((ours.add_norm_3.norm, theirs.norm3))
        _copy_attention(ours.masked_multi_head_attention, theirs.self_attn, name)
        _copy_attention(ours.multi_head_attention, theirs.multihead_attn, name)
    else:
        _copy_attention(ours.multi_head_attention, theirs.self_attn, name)
    for mine, given in pairs:
        _copy(mine, given, name)


def _copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention, name: str) -> None:
    """Torch keeps W^Q, W^K and W^V one below the other."""
    bias = theirs.in_proj_bias
    for i, mine in enumerate((ours.query, ours.key, ours.value)):
        _fill(mine.weight, theirs.in_proj_weight.chunk(3)[i], name)
        _fill(mine.bias, None if bias is None else bias.chunk(3)[i], name)
    _copy(ours.output, theirs.out_proj, name)


def _copy(ours: Any, theirs: Any, name: str) -> None:
    """weight and bias; a norm may have neither."""
    _fill(ours.weight, theirs.weight, name, missing=1.0)
    _fill(getattr(ours, "bias", None), getattr(theirs, "bias", None), name)


@torch.no_grad()
def _fill(ours: Any, theirs: Any, name: str, missing: float = 0.0) -> None:
    if ours is None:
        return
    if theirs is None:
        ours.fill_(missing)
        return
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        raise ReluctantError(
            f"{name}: expected {tuple(ours.shape)} {ours.dtype}, got {tuple(theirs.shape)} "
            f"{theirs.dtype}"
        )
    ours.copy_(theirs)
