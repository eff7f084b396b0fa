"""The weights of transformers' Marian, M2M100 (NLLB) and BART in ours."""

import copy
import re
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.activations import identify, names
from reluctant.errors import ReluctantError, ReluctantWarning
from reluctant.transformer.config import TransformerConfig
from reluctant.transformer.convert import fill
from reluctant.transformer.model import Transformer
from reluctant.transformer.plain import expect

_MODELS = "transformers.models"
# Of an attention: theirs, ours.
_MAPS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
_ATTENTIONS = {
    "model.encoder.layers.*.self_attn": "encoder.layers.*.multi_head_attention",
    "model.decoder.layers.*.self_attn": "decoder.layers.*.masked_multi_head_attention",
    "model.decoder.layers.*.encoder_attn": "decoder.layers.*.multi_head_attention",
}
# Module by module: theirs, ours. A star stands for a layer's number.
_MODULES = {
    "model.encoder.embed_tokens": "input_embedding",
    "model.encoder.layernorm_embedding": "input_norm",
    "model.encoder.layers.*.self_attn_layer_norm": "encoder.layers.*.add_norm_1.norm",
    "model.encoder.layers.*.fc1": "encoder.layers.*.feed_forward.up",
    "model.encoder.layers.*.fc2": "encoder.layers.*.feed_forward.down",
    "model.encoder.layers.*.final_layer_norm": "encoder.layers.*.add_norm_2.norm",
    "model.encoder.layer_norm": "encoder.norm",
    "model.decoder.embed_tokens": "output_embedding",
    "model.decoder.layernorm_embedding": "output_norm",
    "model.decoder.layers.*.self_attn_layer_norm": "decoder.layers.*.add_norm_1.norm",
    "model.decoder.layers.*.encoder_attn_layer_norm": "decoder.layers.*.add_norm_2.norm",
    "model.decoder.layers.*.fc1": "decoder.layers.*.feed_forward.up",
    "model.decoder.layers.*.fc2": "decoder.layers.*.feed_forward.down",
    "model.decoder.layers.*.final_layer_norm": "decoder.layers.*.add_norm_3.norm",
    "model.decoder.layer_norm": "decoder.norm",
    "lm_head": "linear",
    **{
        f"{theirs}.{their_map}": f"{ours}.{our_map}"
        for theirs, ours in _ATTENTIONS.items()
        for their_map, our_map in _MAPS.items()
    },
}
# Tensors that have another name, or another shape, than a module's weight and bias.
_TENSORS = {
    "model.encoder.embed_positions.weight": "input_positions.table",
    "model.encoder.embed_positions.weights": "input_positions.table",
    "model.decoder.embed_positions.weight": "output_positions.table",
    "model.decoder.embed_positions.weights": "output_positions.table",
    "final_logits_bias": "linear.bias",
}
_UNUSED = "model.shared.weight"  # another name of the embeddings; if they are not tied, of nothing
# Theirs, what the config says of it.
_KINDS: dict[str, dict[str, Any]] = {
    f"{_MODELS}.marian.modeling_marian.MarianMTModel": {
        "positions": "fixed",
        "output_bias": True,
    },
    f"{_MODELS}.m2m_100.modeling_m2m_100.M2M100ForConditionalGeneration": {
        "positions": "fixed",
        "norm_first": True,
    },
    f"{_MODELS}.bart.modeling_bart.BartForConditionalGeneration": {
        "positions": "learned",
        "embedding_norm": True,
        "output_bias": True,
    },
}
# Settings of a generation_config that change tokens and that our decoding does not have, with the
# values that say nothing.
_SETTINGS: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(("min_length", "min_new_tokens"), (None, 0)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), (None, 0)),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), (None, 1.0)),
    "begin_suppress_tokens": (None, []),
    **dict.fromkeys(("sequence_bias", "exponential_decay_length_penalty"), (None,)),
    **dict.fromkeys(("guidance_scale", "diversity_penalty"), (None, 0.0, 1.0)),
    "do_sample": (None, False),
}
# What may differ from a new model's without a difference to what is computed.
_FREE = ("training", "name_or_path", "gradient_checkpointing")


def from_hugging_face(theirs: nn.Module) -> Transformer:
    """Copy a MarianMTModel, an M2M100ForConditionalGeneration (NLLB is one) or a
    BartForConditionalGeneration of `transformers`.

    The result gives the same logits but for rounding, and, where no two candidates are as close as
    that, the same tokens as `theirs.generate`: `greedy` as with num_beams=1, `pooled_beam_search`
    as with more. max_new_tokens, forced_bos_token_id=b, forced_eos_token_id and renormalize_logits
    (look into its generation_config for them, and for num_beams) are max_length, prefix=(b,),
    forced_eos=True and renormalize=True there; theirs begins with the start token, which ours
    leaves out. Two things stay as they are here: padding is never
    generated, as where bad_words_ids or suppress_tokens names it, and M2M100's sources have to be
    padded at their end. Of a generation_config that asks for more, such as a least length, a
    ReluctantWarning says so.

    dtype, device, mode, and what is trained are as in theirs (layer drop, which acts in training
    only, is none of ours), which is not changed; no memory is shared.

    Raises ReluctantError for every other class, subclasses too; float16, in which
    transformers clamps what overflows; a model that is not as its config
    says (adapters, quantised weights, hooks, changed attributes); sides with other numbers of heads
    or neurons; more than one end token; weights shared in other ways; an unknown activation.

    >>> from transformers import MarianConfig, MarianMTModel
    >>> sizes = dict(d_model=16, encoder_layers=1, decoder_layers=1, vocab_size=50)
    >>> heads = dict(encoder_attention_heads=2, decoder_attention_heads=2)
    >>> config = MarianConfig(**sizes, **heads, pad_token_id=49, decoder_start_token_id=49)
    >>> model = Transformer.from_hugging_face(MarianMTModel(config).eval())
    >>> model(torch.ones(1, 5, dtype=torch.long), torch.full((1, 1), model.config.bos)).shape
    torch.Size([1, 1, 50])
    """
    kind = getattr(type(theirs), "_unserved", type(theirs))  # of a module that an engine serves
    facts = _KINDS.get(f"{kind.__module__}.{kind.__qualname__}")
    if facts is None:
        known = ", ".join(name.rpartition(".")[2] for name in _KINDS)
        raise ReluctantError(f"expected one of transformers' {known}; got {kind.__qualname__}")
    model: Any = theirs
    like: Tensor = model.lm_head.weight
    if like.dtype is torch.float16:
        raise ReluctantError(
            "expected another dtype than float16, in which transformers clamps what overflows, and "
            "ours does not: convert the model in float32 or bfloat16"
        )
    random = torch.random.fork_rng(devices=[like.device] if like.is_cuda else [])
    # whatever default device or mode the caller is in, and without a change of random numbers
    with torch.inference_mode(False), random:
        _expect_as_configured(model, kind)
        config = TransformerConfig(**facts, **_facts(model, kind.__name__))
        with torch.device(like.device):
            ours = Transformer(config).to(like.dtype).train(model.training)
        _copy(ours, model)
    if asked := _not_ours(model.generation_config, config.pad):
        warnings.warn(
            f"its generation_config has {', '.join(asked)}, which decoding here does not: tokens "
            "are those of generate without it",
            ReluctantWarning,
            stacklevel=3,
        )
    return ours


def _not_ours(generation: Any, pad: int | None) -> list[str]:
    """What its generate does and our decoding does not."""
    nothing = _SETTINGS | {  # padding is never generated here, either
        "suppress_tokens": (None, [], [pad]),
        "bad_words_ids": (None, [], [[pad]]),
    }
    asked = {name: getattr(generation, name, None) for name in nothing}
    return [f"{name}={value!r}" for name, value in asked.items() if value not in nothing[name]]


def _expect_as_configured(theirs: Any, kind: Any) -> None:
    """Refuse a model that may compute something else than a new one of the same config would."""
    with torch.device("meta"):
        twin = kind(copy.deepcopy(theirs.config))
    expected, got = (dict(model.named_modules()) for model in (twin, theirs))
    if odd := sorted(expected.keys() ^ got.keys()):
        raise ReluctantError(
            f"expected the modules that its config says, but only one of the two has {odd[0]}: "
            "merge or remove what was added"
        )
    for name, new in expected.items():
        _expect_alike(got[name], new, theirs.training, name or "the model")


def _expect_alike(module: nn.Module, new: nn.Module, training: bool, name: str) -> None:
    cls = getattr(type(module), "_unserved", type(module))
    if cls is not type(new):
        raise ReluctantError(f"{name}: expected a plain {type(new).__name__}, got {cls}")
    expect(module, type(new), name)
    if module.training != training:
        raise ReluctantError(
            f"expected one mode throughout, got training={training} and {module.training} in "
            f"{name}: call train() or eval() of the whole model first"
        )
    for key, value in vars(new).items():
        public = not key.startswith("_") and key not in _FREE
        if public and isinstance(value, int | float | str) and vars(module).get(key) != value:
            raise ReluctantError(
                f"{name}: expected {key}={value!r}, as its config says, got "
                f"{vars(module).get(key)!r}"
            )


def _facts(theirs: Any, kind: str) -> dict[str, Any]:
    """What our config says of a model that is as its own config says."""
    config, encoder, decoder = theirs.config, theirs.model.encoder, theirs.model.decoder
    for name in ("attention_heads", "ffn_dim"):
        both = [getattr(config, f"{side}_{name}") for side in ("encoder", "decoder")]
        if both[0] != both[1]:
            raise ReluctantError(f"expected as many {name} in both stacks, got {both}")
    if theirs.training and (encoder.layerdrop or decoder.layerdrop):
        raise ReluctantError(
            "expected no layer drop in training, which ours does not have: set encoder.layerdrop "
            "and decoder.layerdrop to 0 in the config and the model, or call eval() first"
        )
    activation = identify(encoder.layers[0].activation_fn)
    if activation is None or activation.name not in names():
        raise ReluctantError(
            f"expected an activation of {', '.join(names())}; got {config.activation_function}: "
            "reluctant.register_activation makes it known"
        )
    shared = decoder.embed_tokens.weight is encoder.embed_tokens.weight
    return _ids(theirs, kind) | {
        "source_vocab": encoder.embed_tokens.num_embeddings,
        "target_vocab": None if shared else decoder.embed_tokens.num_embeddings,
        "d_model": config.d_model,
        "heads": config.encoder_attention_heads,
        "d_ff": config.encoder_ffn_dim,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "activation": activation.name,
        "dropout": float(config.dropout),
        "attention_dropout": float(config.attention_dropout),
        "activation_dropout": float(config.activation_dropout),
        "norm_eps": encoder.layers[0].final_layer_norm.eps,
        "max_positions": _positions(theirs)[1],
        "embedding_scale": None if config.scale_embedding else 1.0,
        "tied": theirs.lm_head.weight is decoder.embed_tokens.weight,
        "source_padding_idx": encoder.embed_tokens.padding_idx,
        "target_padding_idx": decoder.embed_tokens.padding_idx,
    }


def _ids(theirs: Any, kind: str) -> dict[str, Any]:
    """The special tokens that generation goes by."""
    config, generation = theirs.config, theirs.generation_config
    start, eos, pad = (
        config_id if getattr(generation, name, None) is None else getattr(generation, name)
        for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id")
        for config_id in [getattr(config, name, None)]
    )
    if isinstance(eos, list) and len(eos) == 1:
        eos = eos[0]
    if not isinstance(eos, int) or not isinstance(start, int):
        raise ReluctantError(
            f"expected one decoder_start_token_id and one eos_token_id, got {start} and {eos}"
        )
    if pad != config.pad_token_id or (kind.startswith("M2M100") and start == pad):
        raise ReluctantError(
            f"expected one pad_token_id in config and generation_config, and in M2M100 another "
            f"token to start with; got {config.pad_token_id}, {pad} and {start}"
        )
    return {"pad": pad, "bos": start, "eos": eos, "bos_shared": start in (pad, eos)}


def _positions(theirs: Any) -> tuple[int, int]:
    """In their tables of positions: the first token's row, and how many there are from it on."""
    table, count = theirs.model.encoder.embed_positions, theirs.config.max_position_embeddings
    if hasattr(table, "weights"):  # M2M100 counts from its padding's id on
        first = table.padding_idx + 1
        return first, count + table.offset - first
    return getattr(table, "offset", 0), count


def _copy(ours: Transformer, theirs: Any) -> None:
    mine, (first, count) = ours.state_dict(keep_vars=True), _positions(theirs)
    named = [*theirs.named_parameters(remove_duplicate=False), *theirs.named_buffers()]
    copied: dict[int, Any] = {}
    for name, given in named:
        if name == _UNUSED:
            continue
        place = _place(name)
        target = mine[place]
        if copied.setdefault(id(given), target) is not target:
            raise ReluctantError(
                f"expected weights of its own for each module, got {name} shared with another: "
                "only embeddings and output may be tied"
            )
        if place.endswith("table"):
            given = given[first : first + count]  # noqa: PLW2901
        fill(target, given[0] if name == "final_logits_bias" else given, name)
    missing = {id(tensor) for tensor in mine.values()} - {id(t) for t in copied.values()}
    assert not missing, "every tensor of ours has one of theirs"


def _place(name: str) -> str:
    """Where a tensor of theirs belongs in ours."""
    if name in _TENSORS:
        return _TENSORS[name]
    module, _, kind = name.rpartition(".")
    number = re.search(r"(?<=\.layers\.)\d+", module)
    place = _MODULES[re.sub(r"(?<=\.layers\.)\d+", "*", module)]
    return f"{place.replace('*', number[0]) if number else place}.{kind}"
