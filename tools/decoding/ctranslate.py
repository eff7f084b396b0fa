"""A model's weights in CTranslate2, by the classes in which it specifies its own."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reluctant.errors import ReluctantError
from reluctant.transformer.layers import sinusoids
from reluctant.transformer.model import Transformer
from tools.decoding.weights import POSITIONS, expect_plain

KINDS = ("float32", "int8")


class CTranslate2:
    """Decodes with as many threads as torch has.

    names: of all tokens, by id. kind: "float32", or "int8": weights, and the inputs of products.

    Raises ReluctantError if ctranslate2 is not installed, and for a model it cannot be given.
    """

    def __init__(self, model: Transformer, names: Sequence[str], kind: str) -> None:
        package = _ctranslate2()
        self._names = list(names)
        self._ids = {name: number for number, name in enumerate(names)}
        with tempfile.TemporaryDirectory() as folder:
            write(model, names, Path(folder))
            self._translator = package.Translator(
                folder,
                device="cpu",
                compute_type=kind,
                inter_threads=1,
                intra_threads=torch.get_num_threads(),
            )

    def search(self, sources: Sequence[Sequence[int]], beam: int) -> list[list[int]]:
        """The best target of each source: ids with the end, if it was reached.

        beam: 1 is greedy decoding. A target has at most 50 tokens more than its source, as
        everywhere here; CTranslate2 has one limit for a batch, so longer ones are cut afterwards.
        The length penalty is its own with its own default: log P / length.
        """
        limits = [len(source) + 50 for source in sources]
        found = self._translator.translate_batch(
            [[self._names[number] for number in source] for source in sources],
            beam_size=beam,
            max_decoding_length=max(limits),
            return_end_token=True,
        )
        return [
            [self._ids[name] for name in each.hypotheses[0]][:limit]
            for each, limit in zip(found, limits, strict=True)
        ]


@torch.no_grad()
def write(model: Transformer, names: Sequence[str], folder: Path) -> None:
    """Write a model into a folder as CTranslate2 reads it, in float32.

    names: of all tokens, by id; sources have to come with the name of the end at theirs.

    Raises ReluctantError as `CTranslate2`.
    """
    _ctranslate2()
    from ctranslate2.specs import transformer_spec  # noqa: PLC0415  as above

    config = model.config
    expect_plain(config)
    spec = transformer_spec.TransformerSpec.from_config(
        (config.encoder_layers, config.decoder_layers), config.heads, pre_norm=True
    )
    spec.config.layer_norm_epsilon = config.norm_eps
    spec.config.bos_token = spec.config.decoder_start_token = names[config.bos]
    spec.config.eos_token = names[config.eos]
    # its own sinusoids are concatenated, sines before cosines; the paper's take turns
    positions = sinusoids(POSITIONS, config.d_model).float()
    for theirs, ours in ((spec.encoder, model.encoder), (spec.decoder, model.decoder)):
        theirs.scale_embeddings = float(model.scale)
        theirs.position_encodings.encodings = positions
        _norm(theirs.layer_norm, ours.norm)
        for their_layer, our_layer in zip(theirs.layer, _layers(ours), strict=True):
            _layer(their_layer, our_layer)
    spec.encoder.embeddings[0].weight = model.input_embedding.weight
    spec.decoder.embeddings.weight = model.output_embedding.weight
    spec.decoder.projection.weight = model.linear.weight
    spec.register_source_vocabulary(list(names))
    spec.register_target_vocabulary(list(names))
    spec.validate()
    spec.optimize()  # what is equal is written once
    spec.save(str(folder))


def _layers(stack: Any) -> Any:
    return stack.layers


def _layer(spec: Any, ours: Any) -> None:
    own = getattr(ours, "masked_multi_head_attention", None)
    if own is None:
        last = ours.add_norm_2
        _attention(spec.self_attention, ours.multi_head_attention, ours.add_norm_1)
    else:
        last = ours.add_norm_3
        _attention(spec.self_attention, own, ours.add_norm_1)
        _attention(spec.attention, ours.multi_head_attention, ours.add_norm_2)
    _linear(spec.ffn.linear_0, ours.feed_forward.up)
    _linear(spec.ffn.linear_1, ours.feed_forward.down)
    _norm(spec.ffn.layer_norm, last.norm)


def _attention(spec: Any, ours: Any, add_norm: Any) -> None:
    """Maps with one input are one: of queries, keys and values; of the memory's keys and values."""
    if len(spec.linear) == 2:
        _linear(spec.linear[0], ours.query, ours.key, ours.value)
    else:
        _linear(spec.linear[0], ours.query)
        _linear(spec.linear[1], ours.key, ours.value)
    _linear(spec.linear[-1], ours.output)
    _norm(spec.layer_norm, add_norm.norm)


def _linear(spec: Any, *ours: Any) -> None:
    spec.weight = torch.cat([each.weight for each in ours])
    spec.bias = torch.cat([each.bias for each in ours])


def _norm(spec: Any, ours: Any) -> None:
    spec.gamma, spec.beta = ours.weight, ours.bias


def _ctranslate2() -> Any:
    try:
        import ctranslate2  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ReluctantError(
            f"CTranslate2 needs the package ctranslate2 ({error}): pip install 'reluctant[peers]'"
        ) from error
    return ctranslate2
