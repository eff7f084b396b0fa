"""Tiny models of the families that surgery serves, with random weights; nothing is downloaded."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor, nn

VOCABULARY = 99
D, D_FF = 32, 72

_PLAIN = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "num_attention_heads": 2}
_PLAIN |= {"hidden_size": D, "intermediate_size": D_FF, "max_position_embeddings": 64}
_KV = {"num_key_value_heads": 1, "head_dim": 16}
_ENDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_BART = {"vocab_size": VOCABULARY, "d_model": D, "encoder_layers": 2, "decoder_layers": 2}
_BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": D_FF}
_BART |= {"decoder_ffn_dim": D_FF, "max_position_embeddings": 64, "decoder_start_token_id": 2}
_BART |= {"activation_function": "relu", **_ENDS}
_T5 = {"vocab_size": VOCABULARY, "d_model": D, "d_ff": D_FF, "d_kv": 16, "num_layers": 2}
_T5 |= {"num_heads": 2, "decoder_start_token_id": 0, "num_decoder_layers": 2}


def _text(seed: int, tokens: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(3, VOCABULARY, (2, tokens), generator=generator)}


def _both(seed: int, tokens: int) -> dict[str, Tensor]:
    return _text(seed, tokens + 3) | {"decoder_input_ids": _text(seed + 1, tokens)["input_ids"]}


def _image(seed: int, tokens: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    side = 96 if tokens == 1 else 128
    return {"pixel_values": torch.randn(1, 3, side, side, generator=generator)}


def _image_and_text(seed: int, tokens: int) -> dict[str, Tensor]:
    return _image(seed, tokens) | {"input_ids": _text(seed, 5)["input_ids"][:1]}


def _pages(seed: int, tokens: int) -> dict[str, Tensor]:
    given = _both(seed, tokens)
    boxes = torch.zeros(*given["input_ids"].shape, 4)
    boxes[..., 2:] = 1.0
    return given | {"bbox": boxes}


def _speech(seed: int, tokens: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 24, 8, generator=generator)
    return {
        "input_features": features,
        "decoder_input_ids": _text(seed, tokens)["input_ids"],
    }


def _moves(seed: int, tokens: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "states": torch.randn(1, tokens, 5, generator=generator),
        "actions": torch.randn(1, tokens, 3, generator=generator),
        "returns_to_go": torch.randn(1, tokens, 1, generator=generator),
        "rewards": torch.randn(1, tokens, 1, generator=generator),
        "timesteps": torch.arange(tokens)[None],
        "attention_mask": torch.ones(1, tokens),
    }


def _series(seed: int, tokens: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {"past_values": list(torch.randn(2, 8 * (1 + tokens // 4), generator=generator))}


@dataclass(frozen=True)
class Family:
    """A class of transformers with a tiny config, and what surgery is to do with it.

    swapped, refused: how many layers. reason: of every refused one. activation: of every layer.
    """

    model: str
    config: dict[str, Any]
    swapped: int
    activation: str = "relu"
    refused: int = 0
    reason: str = ""
    inputs: Callable[[int, int], dict[str, Tensor]] = _text
    subconfigs: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The model in evaluation mode: biases, norms and layer scales random, too."""
        torch.manual_seed(0)
        cls = getattr(transformers, self.model)
        inner = {
            name: getattr(transformers, config)(**arguments)
            for name, (config, arguments) in self.subconfigs.items()
        }
        model = cls(cls.config_class(**self.config, **inner)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() < 2 and parameter.is_floating_point():
                    parameter.add_(0.2 * torch.randn_like(parameter))
        return model  # type: ignore[no-any-return]


_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
_RESNET |= {"out_features": ["stage2", "stage3", "stage4"], "layer_type": "basic"}
_BACKBONE = {"backbone_config": ("ResNetConfig", _RESNET)}
_LAST = {"backbone_config": ("ResNetConfig", _RESNET | {"out_features": ["stage4"]})}
_DETR = _BART | {"num_queries": 5, "use_timm_backbone": False, "num_labels": 3}
_SWIN = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 2}
_SWIN |= {"out_features": ["stage1", "stage2", "stage3", "stage4"], "image_size": 64}

FAMILIES = [
    Family("OPTForCausalLM", _PLAIN | _ENDS | {"ffn_dim": D_FF, "word_embed_proj_dim": D}, 2),
    Family("BartForConditionalGeneration", _BART, 4, inputs=_both),
    Family("M2M100ForConditionalGeneration", _BART, 4, inputs=_both),
    Family("MarianMTModel", _BART | {"activation_function": "relu"}, 4, inputs=_both),
    Family("PegasusForConditionalGeneration", _BART, 4, inputs=_both),
    Family(
        "NllbMoeForConditionalGeneration",
        _BART | {"num_experts": 2, "encoder_sparse_step": 2, "decoder_sparse_step": 2},
        6,
        inputs=_both,
    ),
    Family(
        "NemotronHForCausalLM",
        _PLAIN
        | _KV
        | _ENDS
        | {
            "layers_block_type": ["mlp", "full_attention", "moe"],
            "n_routed_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": D_FF,
            "moe_shared_expert_intermediate_size": D_FF,
        },
        2,
        "relu2",
        refused=1,
        reason="3-d parameters (up_proj, down_proj)",
    ),
    Family(
        "FSMTForConditionalGeneration",
        _BART | {"src_vocab_size": VOCABULARY, "tgt_vocab_size": VOCABULARY, "langs": ["en", "de"]},
        4,
        inputs=_both,
    ),
    Family(
        "Speech2TextForConditionalGeneration",
        _BART
        | {
            "input_feat_per_channel": 8,
            "input_channels": 1,
            "conv_channels": 16,
            "max_source_positions": 64,
            "max_target_positions": 64,
        },
        4,
        inputs=_speech,
    ),
    Family("T5ForConditionalGeneration", _T5, 4, inputs=_both),
    Family(
        "T5ForConditionalGeneration", _T5 | {"feed_forward_proj": "gated-relu"}, 4, inputs=_both
    ),
    Family(
        "LongT5ForConditionalGeneration",
        _T5 | {"local_radius": 4, "feed_forward_proj": "relu"},
        4,
        inputs=_both,
    ),
    Family(
        "SwitchTransformersForConditionalGeneration",
        _T5 | {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_experts": 2},
        6,
        inputs=_both,
    ),
    Family(
        "UdopForConditionalGeneration", _T5 | {"image_size": 32, "patch_size": 16}, 4, inputs=_pages
    ),
    Family(
        "SeamlessM4TForTextToText",
        _PLAIN
        | _ENDS
        | {
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": D_FF,
            "decoder_ffn_dim": D_FF,
            "speech_encoder_layers": 1,
            "speech_encoder_attention_heads": 2,
            "speech_encoder_intermediate_size": D_FF,
        },
        4,
        inputs=_both,
    ),
    Family("BertForMaskedLM", _PLAIN | {"hidden_act": "relu"}, 2),
    Family("AlbertForMaskedLM", _PLAIN | {"hidden_act": "relu", "embedding_size": 16}, 1),
    Family(
        "DistilBertForMaskedLM",
        {
            "vocab_size": VOCABULARY,
            "dim": D,
            "hidden_dim": D_FF,
            "n_layers": 2,
            "n_heads": 2,
            "activation": "relu",
        },
        2,
    ),
    Family("GPTNeoXForCausalLM", _PLAIN | _ENDS | {"hidden_act": "relu"}, 2),
    Family(
        "GPT2LMHeadModel",
        _ENDS
        | {
            "vocab_size": VOCABULARY,
            "n_embd": D,
            "n_layer": 2,
            "n_head": 2,
            "n_inner": D_FF,
            "n_positions": 64,
            "activation_function": "relu",
        },
        2,
    ),
    Family(
        "DecisionTransformerModel",
        {
            "state_dim": 5,
            "act_dim": 3,
            "hidden_size": D,
            "n_layer": 2,
            "n_head": 2,
            "n_inner": D_FF,
            "max_ep_len": 64,
        },
        2,
        inputs=_moves,
    ),
    Family("LlamaForCausalLM", _PLAIN | _KV | {"hidden_act": "relu"}, 2),
    Family("NemotronForCausalLM", _PLAIN | _KV | _ENDS, 2, "relu2"),
    Family("ArceeForCausalLM", _PLAIN | _KV | _ENDS, 2, "relu2"),
    Family("PersimmonForCausalLM", _PLAIN | _ENDS, 2, "relu2"),
    Family("Jais2ForCausalLM", _PLAIN | _KV | _ENDS, 2, "relu2"),
    Family("NanoChatForCausalLM", _PLAIN | _KV | _ENDS, 2, "relu2"),
    Family("BitNetForCausalLM", _PLAIN | _KV | _ENDS, 2, "relu2"),
    Family(
        "RwkvForCausalLM",
        _PLAIN | _ENDS | {"context_length": 64},
        0,
        refused=2,
        reason="does more, which is not looked into (key, value;",
    ),
    Family(
        "TimesFmModelForPrediction",
        {
            "patch_length": 8,
            "context_length": 32,
            "horizon_length": 8,
            "num_hidden_layers": 2,
            "hidden_size": D,
            "intermediate_size": D,  # as in the published one: no wider than the model
            "head_dim": 16,
            "num_attention_heads": 2,
        },
        0,
        refused=2,
        reason="does more, which is not looked into (gate_proj, down_proj;",
        inputs=_series,
    ),
    Family(
        "CTRLLMHeadModel",
        _ENDS
        | {
            "vocab_size": VOCABULARY,
            "n_embd": D,
            "dff": D_FF,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 64,
        },
        2,
    ),
    Family(
        "XLMWithLMHeadModel",
        _ENDS
        | {
            "vocab_size": VOCABULARY,
            "emb_dim": D,
            "n_layers": 2,
            "n_heads": 2,
            "max_position_embeddings": 64,
            "gelu_activation": False,
            "pad_index": 1,
            "mask_token_id": 3,
            "lang_id": 0,
        },
        2,
    ),
    Family(
        "Phi3ForCausalLM",
        _PLAIN | _KV | _ENDS | {"hidden_act": "relu"},
        0,
        refused=2,
        reason="key and gate are one Linear",
    ),
    Family(
        "GlmForCausalLM",
        _PLAIN | _KV | _ENDS | {"hidden_act": "relu"},
        0,
        refused=2,
        reason="key and gate are one Linear",
    ),
    Family("DetrForObjectDetection", _DETR, 4, inputs=_image, subconfigs=_LAST),
    Family("TableTransformerForObjectDetection", _DETR, 4, inputs=_image, subconfigs=_LAST),
    Family(
        "ConditionalDetrForObjectDetection",
        _DETR,
        4,
        refused=1,
        reason="(0, 1; its parts",  # its query_scale, two maps in a list
        inputs=_image,
        subconfigs=_LAST,
    ),
    Family("DeformableDetrForObjectDetection", _DETR, 4, inputs=_image, subconfigs=_BACKBONE),
    Family(
        "RTDetrForObjectDetection",
        {
            "d_model": D,
            "encoder_hidden_dim": D,
            "encoder_in_channels": [8, 8, 8],
            "decoder_in_channels": [D, D, D],
            "encoder_ffn_dim": D_FF,
            "decoder_ffn_dim": D_FF,
            "encoder_activation_function": "relu",
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "decoder_layers": 2,
            "num_queries": 5,
            "num_denoising": 0,
            "use_timm_backbone": False,
            "freeze_backbone_batch_norms": False,
        },
        3,
        inputs=_image,
        subconfigs={"backbone_config": ("RTDetrResNetConfig", _RESNET)},
    ),
    Family(
        "GroundingDinoForObjectDetection",
        _DETR | {"max_text_len": 16},
        12,
        "gelu relu",
        inputs=_image_and_text,
        subconfigs={
            "backbone_config": (
                "SwinConfig",
                _SWIN | {"out_features": ["stage2", "stage3", "stage4"]},
            ),
            "text_config": ("BertConfig", _PLAIN),
        },
    ),
    Family(
        "Mask2FormerForUniversalSegmentation",
        {
            "feature_size": D,
            "mask_feature_size": D,
            "hidden_dim": D,
            "encoder_feedforward_dim": D_FF,
            "dim_feedforward": D_FF,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "num_attention_heads": 2,
            "num_queries": 5,
        },
        8,
        "gelu relu",
        inputs=_image,
        subconfigs={"backbone_config": ("SwinConfig", _SWIN)},
    ),
]
