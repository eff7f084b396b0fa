"""Tiny models of any class of transformers, from its configuration alone. For the scan."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

MOST_PARAMETERS = 30_000_000

# Sizes by what their names contain; the first that fits. Whatever else a config has stays.
_SIZES = (
    (("vocab_size",), 99),
    (("max_position", "n_positions", "max_source_pos", "max_target_pos"), 128),
    (("head_dim", "d_kv", "qk_", "v_head"), 16),
    (("intermediate", "ffn_dim", "d_ff", "ffn_hidden", "feedforward_dim", "hidden_dim"), 64),
    (("dim_feedforward", "n_inner", "mlp_dim"), 64),
    (("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 2),
    (("n_layers", "num_decoder_layers", "num_encoder_layers", "depth"), 2),
    (("num_key_value", "attention_heads", "n_head", "num_heads", "n_heads"), 2),
    (("num_experts", "num_local_experts", "n_routed_experts"), 4),
    (("hidden_size", "d_model", "embed_dim", "n_embd", "embedding_size", "projection_dim"), 32),
    (("image_size",), 32),
    (("patch_size",), 8),
    (("num_queries",), 5),
)


def tiny_config(config_class: type) -> Any:
    """Its default configuration, with small sizes wherever a name tells of a size."""
    config: Any = config_class()
    _shrink(config, 0)
    return config


def _shrink(config: Any, level: int) -> None:
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict") and level < 3:
            _shrink(value, level + 1)
        elif isinstance(value, int) and not isinstance(value, bool) and value > 1:
            size = next((n for parts, n in _SIZES if any(p in name for p in parts)), None)
            if size is not None and size < value:
                with contextlib.suppress(Exception):
                    setattr(config, name, size)
        elif name.endswith("_token_id") and isinstance(value, int):
            setattr(config, name, min(value, 2))
        elif name == "layer_types" and isinstance(value, list):
            setattr(config, name, value[:2])


def tiny_model(cls: type[nn.Module], config: Any) -> nn.Module:
    """Random weights, biases and norms. Raises ValueError if it is not tiny after all."""
    with torch.device("meta"):
        size = sum(p.numel() for p in cls(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2 and parameter.is_floating_point():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs(model: Any) -> Iterator[dict[str, Tensor]]:
    """Guesses at what the model's forward takes, likelier ones first."""
    ids = torch.randint(3, 90, (2, 6), generator=torch.Generator().manual_seed(0))
    side = getattr(model.config, "image_size", 32)
    side = side if isinstance(side, int) else 32
    image = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    wave = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    text = {"input_ids": ids}
    yield text
    yield text | {"decoder_input_ids": ids[:, :4]}
    yield {"pixel_values": image}
    yield text | {"pixel_values": image}
    yield {"input_values": wave}
    for bins in (80, 128, getattr(model.config, "num_mel_bins", 64)):
        features = torch.randn(2, 200, bins, generator=torch.Generator().manual_seed(0))
        yield {"input_features": features}
        yield {"input_features": features.transpose(1, 2), "decoder_input_ids": ids[:, :4]}
    if hasattr(model, "dummy_inputs"):
        with contextlib.suppress(Exception):
            yield model.dummy_inputs
