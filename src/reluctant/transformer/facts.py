"""What a TransformerConfig says of torch's modules: one answer for all layers, or a refusal."""

from typing import Any

from torch import nn

from reluctant.activations import identify, names
from reluctant.errors import ReluctantError
from reluctant.transformer.plain import (
    expect,
    expect_attention,
    expect_embedding,
    expect_norm,
    rate,
)


def stack_facts(encoder: Any, decoder: Any) -> dict[str, Any]:
    """What the config says of both stacks."""
    facts = [
        _layer_facts(layer, cls, f"{name}.layers.{i}")
        for name, stack, cls in (
            ("encoder", encoder, nn.TransformerEncoderLayer),
            ("decoder", decoder, nn.TransformerDecoderLayer),
        )
        for i, layer in enumerate(stack.layers)
    ]
    same = _same(facts)
    del same["batch_first"]  # a layout, not a result; but it has to be one
    norms = [norm for norm in (encoder.norm, decoder.norm) if norm is not None]
    for norm in norms:
        expect_norm(norm, same["d_model"], "a stack's last norm")
    same |= _same([{"final_norm_eps": norm.eps} for norm in norms])
    same |= {"encoder_layers": len(encoder.layers), "decoder_layers": len(decoder.layers)}
    return same | {
        "encoder_norm": encoder.norm is not None,
        "decoder_norm": decoder.norm is not None,
    }


def embedding_facts(source: nn.Embedding, target: nn.Embedding) -> dict[str, Any]:
    """What the config says of the embeddings' gradients."""
    both = []
    for embedding, name in ((source, "source_embedding"), (target, "target_embedding")):
        expect_embedding(embedding, name)
        both.append(
            {"sparse": embedding.sparse, "scale_grad_by_freq": embedding.scale_grad_by_freq}
        )
    idx = {"source_padding_idx": source.padding_idx, "target_padding_idx": target.padding_idx}
    return _same(both) | idx


def _layer_facts(layer: Any, cls: type[nn.Module], name: str) -> dict[str, Any]:
    """What the config says of a layer of torch's."""
    expect(layer, cls, name)
    for part in ("linear1", "linear2"):
        expect(getattr(layer, part), nn.Linear, f"{name}.{part}")
    parts = dict(layer.named_children())
    attentions = [parts[part] for part in ("self_attn", "multihead_attn") if part in parts]
    for attention in attentions:
        expect_attention(attention, f"{name}'s attention")
    norms = [part for part in parts if part.startswith("norm")]
    for part in norms:
        expect_norm(parts[part], layer.linear1.in_features, f"{name}.{part}")
    dropouts = [part for part in parts if part.startswith("dropout") and part != "dropout"]
    own = {
        "d_model": layer.linear1.in_features,
        "d_ff": layer.linear1.out_features,
        "activation": _activation(layer, name),
        "activation_dropout": rate(layer.dropout, f"{name}.dropout"),
        "norm_first": layer.norm_first,
    }
    of_attentions = [
        {"heads": a.num_heads, "attention_dropout": a.dropout, "batch_first": a.batch_first}
        for a in attentions
    ]
    own |= _same(of_attentions) | _same([{"norm_eps": parts[part].eps} for part in norms])
    return own | _same([{"dropout": rate(parts[part], f"{name}.{part}")} for part in dropouts])


def _activation(layer: Any, name: str) -> Any:
    """Its name, or itself if it has none that is known."""
    activation = identify(layer.activation)
    if activation is None:
        raise ReluctantError(
            f"{name}: expected an activation of {', '.join(names())}; got {layer.activation!r}: "
            "reluctant.register_activation makes it known"
        )
    fused = {1: "relu", 2: "gelu"}.get(getattr(layer, "activation_relu_or_gelu", 0))
    if fused not in (None, activation.name):  # torch's fused path does not look at `activation`
        raise ReluctantError(
            f"{name}: its activation was changed to {activation.name}, but torch's fused path goes "
            f"on with {fused}: set activation_relu_or_gelu to 0"
        )
    return activation.name if activation.name in names() else activation


def _same(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """The facts that all agree on, which have to be all of them."""
    for other in facts[1:]:
        for name, value in other.items():
            if value != facts[0][name]:
                raise ReluctantError(
                    f"expected one {name} throughout, got {facts[0][name]!r} and {value!r}"
                )
    return facts[0] if facts else {}
