"""Models of well-known shapes with random weights and a chosen density, to time whole models on.

    reluctant optimize reluctant.whole.shapes:opt_1_3b
    reluctant optimize reluctant.whole.shapes:m2m100_418m

Every `fc1.bias` starts at zero, and the model reads random tokens once. In that pass each layer in
turn has its pre-activations z measured, and the layer's bias set to minus their 95th percentile,
the same for all its neurons: 5 % of all z are then positive, on those tokens. What other tokens
make of it, the command measures. Which neurons are active changes from token to token, as in a
trained model; unlike there, each is as likely as any other.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

DENSITY = 0.05
CALIBRATION, PROMPT = 128, 32  # tokens
DRAWN = 2**22  # random numbers; larger weights repeat them


def opt_1_3b() -> Any:
    """facebook/opt-1.3b's shape: 24 layers, d_model 2048, d_ff 8192; float32, 5.3 GB. The matrices'
    numbers are float16 ones, as the checkpoint's are."""
    from transformers import OPTConfig, OPTForCausalLM  # noqa: PLC0415

    config = OPTConfig(
        hidden_size=2048,
        ffn_dim=8192,
        num_hidden_layers=24,
        num_attention_heads=32,
        word_embed_proj_dim=2048,
    )
    return _sparse(_drawn(OPTForCausalLM, config, rounded_to=torch.float16))


def m2m100_418m(beams: int = 5) -> Any:
    """facebook/m2m100_418M's shape: 12 + 12 layers, d_model 1024, d_ff 4096; float32, 1.9 GB.

    Generates with beam search.
    """
    from transformers import M2M100Config, M2M100ForConditionalGeneration  # noqa: PLC0415

    config = M2M100Config(
        vocab_size=128112,
        d_model=1024,
        encoder_ffn_dim=4096,
        decoder_ffn_dim=4096,
        encoder_layers=12,
        decoder_layers=12,
        encoder_attention_heads=16,
        decoder_attention_heads=16,
        activation_function="relu",
    )
    model, inputs = _sparse(_drawn(M2M100ForConditionalGeneration, config))
    model.generation_config.num_beams = beams
    return model, inputs


def _drawn(kind: Callable[[Any], Any], config: Any, rounded_to: torch.dtype = torch.float32) -> Any:
    """Build a model with normal weights, quickly: from as few random numbers as will do."""
    from transformers.initialization import no_init_weights  # noqa: PLC0415

    with no_init_weights():
        model = kind(config).eval()
    model.tie_weights()
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(DRAWN + 1, generator=generator)
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            if weight.dim() > 1:
                # an odd shift a weight, and rows that do not line up: no two rows are alike
                scaled = numbers.roll(number * 12_347) / weight.shape[-1] ** 0.5
                _tile(weight, scaled.to(rounded_to).float())
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                # Signs: with ones, the embedding of the last token, which the residual stream holds
                # and the output head shares, would be the next one for ever.
                module.weight.copy_(numbers[: module.weight.numel()].sign())
            if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def _tile(weight: Tensor, numbers: Tensor) -> None:
    """Fill a weight with these numbers, over and over."""
    flat = weight.view(-1)
    for start in range(0, flat.numel(), len(numbers)):
        piece = flat[start : start + len(numbers)]
        piece.copy_(numbers[: len(piece)])


@torch.inference_mode()
def _sparse(model: Any) -> tuple[Any, dict[str, Tensor]]:
    """Shift the biases; gives the model and random tokens to call it with."""
    handles = [
        module.fc1.register_forward_hook(_shift)
        for module in model.modules()
        if isinstance(getattr(module, "fc1", None), nn.Linear)
    ]
    try:
        ids = _tokens(model.config.vocab_size, CALIBRATION, seed=1)
        more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
        model(input_ids=ids, **more)
    finally:
        for handle in handles:
            handle.remove()
    ids = _tokens(model.config.vocab_size, PROMPT, seed=2)
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _shift(fc1: nn.Module, args: tuple[Tensor, ...], z: Tensor) -> Tensor:
    assert isinstance(fc1, nn.Linear)
    keep = max(1, round(DENSITY * z.numel()))
    bound = z.reshape(-1).kthvalue(z.numel() - keep).values
    fc1.bias.sub_(bound)
    return z - bound


def _tokens(vocabulary: int, count: int, seed: int) -> Tensor:
    """Random token ids above the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, vocabulary, (1, count), generator=generator)
