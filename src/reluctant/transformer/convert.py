"""The weights of a torch.nn.Transformer in ours."""

from typing import Any

import torch
from torch import Tensor, nn

from reluctant.errors import ReluctantError
from reluctant.transformer.attention import MultiHeadAttention
from reluctant.transformer.config import TransformerConfig
from reluctant.transformer.facts import embedding_facts, stack_facts
from reluctant.transformer.layers import DecoderLayer
from reluctant.transformer.model import Transformer
from reluctant.transformer.plain import expect, expect_embedding

Table = Tensor | nn.Embedding


def from_torch(
    theirs: nn.Transformer,
    source_embedding: nn.Embedding,
    *,
    target_embedding: nn.Embedding | None = None,
    output: nn.Linear | None = None,
    positions: Table | tuple[Table, Table] | None = None,
    embedding_scale: float | None = None,
    embedding_dropout: float | None = None,
    pad: int | None = None,
    bos: int = 1,
    eos: int = 2,
) -> Transformer:
    """Copy an nn.Transformer and what stands around it, which torch leaves to its users.

    target_embedding: None: the source's, shared. output: Linear(d_model, target_vocab); None: the
    target embedding's weights, tied. positions: added to the scaled embeddings, (length, d_model)
    or (1, length, d_model), of both sides or a pair: what requires a gradient is learned,
    else fixed; None: sinusoidal. embedding_scale: None: sqrt(d_model), as in the paper; 1 for
    none. embedding_dropout: after the positions, in training; None: as in the layers, as in the
    paper; 0 for none. pad, bos, eos: as in `TransformerConfig`; pad None: no padding mask.

    Batch first or not, pre- or post-norm, with or without last norms and biases; a bias or a norm's
    weight that some modules lack is 0 or 1 there, and not trained. The result is in theirs' dtype,
    device and mode; what requires no gradient there requires none here; weights that are tied stay
    tied; it shares no memory with the original. Random states are left as they were.

    Raises ReluctantError for what it has no place for: other classes, hooks, parametrizations, an
    embedding's max_norm, settings that differ between layers, weights shared in other ways ...

    >>> theirs = nn.Transformer(16, 2, 2, 2, 64, batch_first=True)
    >>> model = Transformer.from_torch(theirs, nn.Embedding(50, 16)).eval()
    >>> model(torch.ones(1, 5, dtype=torch.long), torch.ones(1, 3, dtype=torch.long)).shape
    torch.Size([1, 3, 50])
    """
    source, target = source_embedding, target_embedding or source_embedding
    encoder, decoder = _stacks(theirs)
    tables = _tables(positions)
    facts = stack_facts(encoder, decoder) | embedding_facts(source, target) | _table_facts(tables)
    if output is not None:
        expect(output, nn.Linear, "output")
    shared = target.weight is source.weight
    tied = output is None or output.weight is target.weight
    _expect_own_weights(theirs, source, None if shared else target, None if tied else output)
    config = TransformerConfig(
        source_vocab=source.num_embeddings,
        target_vocab=None if shared else target.num_embeddings,
        bias=any(name.endswith("bias") for name, _ in theirs.named_parameters()),
        embedding_scale=embedding_scale,
        embedding_dropout=embedding_dropout,
        tied=tied,
        output_bias=output is not None and output.bias is not None,
        pad=pad,
        bos=bos,
        eos=eos,
        **facts,
    )
    like = next(theirs.parameters())
    # whatever default device or mode the caller is in, and without a change of random numbers
    random = torch.random.fork_rng(devices=[like.device] if like.is_cuda else [])
    with torch.inference_mode(False), torch.device(like.device), random:
        ours = Transformer(config).to(like.dtype).train(theirs.training)
        _copy(ours.input_embedding, source, "source_embedding")
        _copy(ours.output_embedding, target, "target_embedding")
        if output is not None:
            _copy(ours.linear, output, "output")
        sides = (ours.input_positions, ours.output_positions)
        for side, table in zip(sides, tables, strict=False):
            fill(side.table, _rows(table), "positions")
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
    expect(theirs, nn.Transformer, "transformer")
    encoder: Any = theirs.encoder
    decoder: Any = theirs.decoder
    expect(encoder, nn.TransformerEncoder, "encoder")
    expect(decoder, nn.TransformerDecoder, "decoder")
    for name, part in theirs.named_modules():
        if (
            isinstance(part, nn.Dropout | nn.MultiheadAttention)
            and part.training != theirs.training
        ):
            raise ReluctantError(
                f"expected one mode throughout, got training={theirs.training} and {part.training} "
                f"in {name}: call train() or eval() of the whole model first"
            )
    return encoder, decoder


def _table_facts(tables: list[Tensor]) -> dict[str, Any]:
    """What the config says of tables of positions."""
    if not tables:
        return {}
    learned = any(table.requires_grad for table in tables)
    return {
        "positions": "learned" if learned else "fixed",
        "tied_positions": learned and tables[0] is tables[1],
        "max_positions": _rows(tables[0]).size(0),
    }


def _expect_own_weights(theirs: nn.Transformer, *around: nn.Module | None) -> None:
    """Refuse weights that are shared in a way that ours are not: training would part them."""
    modules: list[nn.Module] = [theirs, *(module for module in around if module is not None)]
    seen: set[int] = set()
    for module in modules:
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if id(parameter) in seen:
                raise ReluctantError(
                    f"expected weights of its own for each module, got {name} shared with another: "
                    "only embeddings, output and positions may be tied"
                )
            seen.add(id(parameter))


def _tables(positions: Table | tuple[Table, Table] | None) -> list[Tensor]:
    """The source's and the target's, as they were given; none for sinusoids."""
    if positions is None:
        return []
    pair = positions if isinstance(positions, tuple) else (positions, positions)
    tables = [_table(table) if isinstance(table, nn.Embedding) else table for table in pair]
    if len(tables) != 2 or not all(
        isinstance(table, Tensor) and (table.dim() == 2 or (table.dim() == 3 and len(table) == 1))
        for table in tables
    ):
        raise ReluctantError(
            "positions: expected one table (length, d_model) or (1, length, d_model), a pair of "
            "tables, or None"
        )
    return tables


def _table(embedding: nn.Embedding) -> Tensor:
    """Its weight, which is added to what it belongs to, and not looked up."""
    expect_embedding(embedding, "positions")
    if embedding.padding_idx is not None or embedding.sparse or embedding.scale_grad_by_freq:
        raise ReluctantError(
            "positions: expected an embedding without padding_idx, sparse and scale_grad_by_freq, "
            "which change gradients: give its weight, a Parameter, if they do not matter"
        )
    return embedding.weight


@torch.enable_grad()  # a row of a Parameter stays one that is learned
def _rows(table: Tensor) -> Tensor:
    return table if table.dim() == 2 else table[0]


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
    for i, mine in enumerate((ours.query, ours.key, ours.value)):
        fill(mine.weight, theirs.in_proj_weight, name, third=i)
        fill(mine.bias, theirs.in_proj_bias, name, third=i)
    _copy(ours.output, theirs.out_proj, name)


def _copy(ours: Any, theirs: Any, name: str) -> None:
    """weight and bias; a norm may have neither."""
    fill(ours.weight, theirs.weight, name, missing=1.0)
    fill(getattr(ours, "bias", None), getattr(theirs, "bias", None), name)


@torch.no_grad()
def fill(
    ours: Any, theirs: Any, name: str, *, missing: float = 0.0, third: int | None = None
) -> None:
    """Copy a tensor, or a third of it, and whether it is trained."""
    if ours is None:
        return
    if isinstance(ours, nn.Parameter):
        ours.requires_grad_(theirs is not None and theirs.requires_grad)
    if theirs is None:
        ours.fill_(missing)
        return
    given = theirs if third is None else theirs.chunk(3)[third]
    kinds = [(tuple(t.shape), t.dtype, t.device) for t in (ours, given)]
    if kinds[0] != kinds[1]:
        expected, got = (f"{shape} {dtype} on {device}" for shape, dtype, device in kinds)
        raise ReluctantError(f"{name}: expected {expected}, got {got}")
    ours.copy_(given)
