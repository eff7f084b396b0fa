"""Marian, M2M100 and BART in ours: transformers' own logits and tokens."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
)

import reluctant
from reluctant.errors import ReluctantError, ReluctantWarning
from reluctant.transformer import Transformer, greedy, load, pooled_beam_search, save

V = 30
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "marian": (
        MarianConfig,
        MarianMTModel,
        {"pad_token_id": V - 1, "decoder_start_token_id": V - 1, "eos_token_id": 0},
    ),
    "m2m100": (M2M100Config, M2M100ForConditionalGeneration, {}),
    "bart": (BartConfig, BartForConditionalGeneration, {}),
}
SIZES: dict[str, Any] = {
    "vocab_size": V,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 40,
    "forced_eos_token_id": None,
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("marian", {}),
    ("marian", {"scale_embedding": True, "activation_function": "swish"}),
    ("marian", {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": V + 3}),
    ("marian", {"tie_word_embeddings": False, "decoder_layers": 1}),
    ("m2m100", {}),
    ("m2m100", {"scale_embedding": False, "activation_function": "gelu"}),
    ("m2m100", {"tie_word_embeddings": False, "pad_token_id": 3}),
    ("bart", {}),
    ("bart", {"scale_embedding": True, "activation_function": "relu"}),
    ("bart", {"decoder_start_token_id": 0, "encoder_layers": 1}),
]
each_variant = pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=str)
each_kind = pytest.mark.parametrize("kind", KINDS)


def build(kind: str, seed: int = 0, **options: Any) -> Any:
    """A model of theirs whose tokens differ, and end now and then; it generates no padding."""
    config, model, ids = KINDS[kind]
    torch.manual_seed(seed)
    theirs = model(config(**(SIZES | ids | options))).eval()
    with torch.no_grad():
        for name, weight in [*theirs.named_parameters(), *theirs.named_buffers()]:
            if "positions" in name:  # of size 1, so that each says another token
                weight.normal_() if kind == "bart" else None
            elif "bias" in name:
                weight.normal_(std=0.1)
            elif "norm" in name:  # of either sign: tied embeddings make a token repeat itself
                weight.normal_(std=1.5)
            elif "embed" in name or "shared" in name:
                weight.normal_(std=0.2)
            else:  # little of the memory, which is the same in each step
                weight.normal_(std=0.1 if "encoder_attn.out_proj" in name else 0.25)
    theirs.generation_config.suppress_tokens = [theirs.config.pad_token_id]
    return theirs


def with_ends(theirs: Any, source: Tensor) -> Any:
    """The same with an end token that is generated often."""
    common = generated(theirs, source, max_new_tokens=6, num_beams=1)[0, 3]
    if common != theirs.config.pad_token_id:  # else it has one
        theirs.generation_config.eos_token_id = int(common)
    return theirs


def sentences(theirs: Any, lengths: tuple[int, ...] = (7, 3, 5, 1)) -> Tensor:
    """Padded at their end."""
    ids = torch.randint(4, V - 2, (len(lengths), max(lengths)))
    for row, length in enumerate(lengths):
        ids[row, length:] = theirs.config.pad_token_id
    return ids


def generated(theirs: Any, source: Tensor, **options: Any) -> Tensor:
    """Without the start token."""
    tokens: Tensor = theirs.generate(
        source,
        attention_mask=(source != theirs.config.pad_token_id).long(),
        do_sample=False,
        **options,
    )
    return tokens[:, 1:]


def same(ours: Tensor, theirs: Tensor, fill: int) -> bool:
    """Whether they are the same tokens, but for how far they are filled up."""
    width = max(ours.size(1), theirs.size(1))
    both = [nn.functional.pad(t, (0, width - t.size(1)), value=fill) for t in (ours, theirs)]
    return torch.equal(*both)


@each_variant
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_the_same_logits(
    kind: str, options: dict[str, Any], dtype: torch.dtype, atol: float
) -> None:
    theirs = build(kind, **options).to(dtype)
    before = copy.deepcopy(theirs.state_dict())
    ours = Transformer.from_hugging_face(theirs)
    assert not ours.training
    source, target = sentences(theirs), torch.randint(4, V - 2, (4, 6))
    target[:, 0] = ours.config.bos
    mask = (source != theirs.config.pad_token_id).long()
    with torch.no_grad():
        expected = theirs(source, attention_mask=mask, decoder_input_ids=target).logits
        got = ours(source, target)
    assert got.dtype == dtype
    assert expected.abs().max() > 1
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, before[name])


@each_variant
def test_the_same_greedy_tokens(kind: str, options: dict[str, Any]) -> None:
    different = set[int]()
    for seed in range(4):
        theirs = build(kind, seed, **options).double()
        ours = Transformer.from_hugging_face(theirs)
        source = sentences(theirs)
        expected = generated(theirs, source, max_new_tokens=12, num_beams=1)
        got = greedy(ours, source, max_length=12)
        assert same(got, expected, theirs.config.pad_token_id)
        different |= set(got.unique().tolist())
    assert len(different) > 5


@each_kind
@pytest.mark.parametrize("early", [True, False, "never"])
@pytest.mark.parametrize("penalty", [-0.5, 0.0, 1.0, 2.5])
def test_the_same_beams(kind: str, early: Any, penalty: float) -> None:
    ended = 0
    for seed in range(4):
        theirs = build(kind, seed).double()
        source = sentences(theirs)
        ours = Transformer.from_hugging_face(with_ends(theirs, source))
        beams = 2 + seed % 3
        out = theirs.generate(
            source,
            attention_mask=(source != theirs.config.pad_token_id).long(),
            **{"num_beams": beams, "num_return_sequences": beams, "do_sample": False},
            **{"length_penalty": penalty, "early_stopping": early, "max_new_tokens": 9},
            **{"return_dict_in_generate": True, "output_scores": True},
        )
        options: dict[str, Any] = {"num_beams": beams, "length_penalty": penalty}
        options |= {"early_stopping": early, "max_length": 9}
        got = pooled_beam_search(ours, source, **options)
        assert same(got.tokens.flatten(0, 1), out.sequences[:, 1:], ours.config.pad or 0)
        torch.testing.assert_close(
            got.scores.flatten().float(), out.sequences_scores, rtol=1e-4, atol=1e-4
        )
        ended += int((got.tokens == ours.config.eos).sum())
        for row, length in enumerate((7, 3, 5, 1)):  # alone, too
            alone = pooled_beam_search(ours, source[row : row + 1, :length], **options)
            assert same(got.tokens[row], alone.tokens[0], ours.config.pad or 0)
            torch.testing.assert_close(alone.scores[0], got.scores[row], rtol=0, atol=1e-9)
    assert ended > 1


@each_kind
def test_the_same_tokens_with_a_forced_begin_and_end(kind: str) -> None:
    theirs = build(kind, 1).double()
    source, pad = sentences(theirs), theirs.config.pad_token_id
    ours = Transformer.from_hugging_face(with_ends(theirs, source))
    force: dict[str, Any] = {"forced_bos_token_id": 7, "forced_eos_token_id": ours.config.eos}
    ours_force: dict[str, Any] = {"prefix": (7,), "forced_eos": True, "max_length": 8}
    expected = generated(theirs, source, max_new_tokens=8, num_beams=1, **force)
    got = greedy(ours, source, **ours_force)
    assert same(got, expected, pad)
    assert (got[:, 0] == 7).all()
    assert (got == ours.config.eos).any(1).all()
    each = torch.full((len(source), 1), 7)  # one for each
    assert torch.equal(greedy(ours, source, **(ours_force | {"prefix": each})), got)
    for early in (True, False):
        options: dict[str, Any] = {"num_beams": 3, "early_stopping": early}
        expected = generated(theirs, source, max_new_tokens=8, **options, **force)
        best = pooled_beam_search(ours, source, **options, **ours_force)
        assert same(best.tokens[:, 0], expected, pad)


@each_kind
def test_saved_and_loaded_it_decodes_the_same(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors.torch")
    theirs = build(kind)
    ours = Transformer.from_hugging_face(theirs)
    save(ours, tmp_path)
    again = load(tmp_path)
    assert again.config == ours.config
    source = sentences(theirs)
    assert torch.equal(greedy(again, source, max_length=9), greedy(ours, source, max_length=9))


@each_kind
def test_mode_and_what_is_trained_are_kept_and_nothing_is_shared(kind: str) -> None:
    options = {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "activation_dropout": 0.2}
    theirs = build(kind, **options).train()
    theirs.model.encoder.layers[0].fc1.weight.requires_grad_(False)
    torch.manual_seed(3)
    ours = Transformer.from_hugging_face(theirs)
    after = torch.rand(())
    torch.manual_seed(3)
    assert torch.equal(torch.rand(()), after)
    assert ours.training
    config = ours.config
    assert (config.dropout, config.activation_dropout) == (0.1, 0.2)
    frozen = {name for name, p in ours.named_parameters() if not p.requires_grad}
    assert frozen - {"linear.bias"} == {"encoder.layers.0.feed_forward.up.weight"}
    theirs_at = {t.data_ptr() for t in theirs.state_dict().values()}
    assert theirs_at.isdisjoint(t.data_ptr() for t in ours.state_dict().values())
    assert ours.linear.weight is ours.output_embedding.weight is ours.input_embedding.weight


def test_a_model_that_engines_serve_is_copied_too() -> None:
    theirs = build("bart")
    source = sentences(theirs)
    expected = greedy(Transformer.from_hugging_face(theirs), source, max_length=9)
    reluctant.optimize(theirs)
    got = greedy(Transformer.from_hugging_face(theirs), source, max_length=9)
    assert torch.equal(got, expected)


def test_m2m100_is_copied_after_its_table_of_positions_has_grown() -> None:
    theirs = build("m2m100").double()
    ours = Transformer.from_hugging_face(theirs)
    with torch.no_grad():
        theirs.model.encoder(torch.randint(4, V, (1, 60)))
    assert len(theirs.model.encoder.embed_positions.weights) > 42
    again = Transformer.from_hugging_face(theirs)
    torch.testing.assert_close(again.input_positions.table, ours.input_positions.table)


def hooked(theirs: Any) -> None:
    theirs.model.decoder.layers[1].fc1.register_forward_hook(lambda *_: None)


def adapted(theirs: Any) -> None:
    layer = theirs.model.encoder.layers[0].self_attn
    layer.q_proj = nn.Sequential(layer.q_proj, nn.Linear(16, 16))


def subclassed(theirs: Any) -> None:
    class Other(nn.Linear):
        pass

    theirs.lm_head.__class__ = Other


def rescaled(theirs: Any) -> None:
    theirs.model.encoder.layers[0].self_attn.scaling = 0.1


def replaced(theirs: Any) -> None:
    theirs.model.encoder.layers[0].forward = lambda x, *_, **__: x


def shared(theirs: Any) -> None:
    layers = theirs.model.encoder.layers
    layers[1].fc1.weight = layers[0].fc1.weight


def mixed(theirs: Any) -> None:
    theirs.model.encoder.layers[0].fc1.to(torch.float64)


def half_trained(theirs: Any) -> None:
    theirs.model.decoder.train()


def two_ends(theirs: Any) -> None:
    theirs.generation_config.eos_token_id = [2, 5]


def two_paddings(theirs: Any) -> None:
    theirs.generation_config.pad_token_id = 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (hooked, r"model\.decoder\.layers\.1\.fc1: expected .* hooks"),
        (adapted, r"only one of the two has model\.encoder\.layers\.0\.self_attn\.q_proj\.0"),
        (subclassed, "lm_head: expected a plain Linear"),
        (rescaled, r"expected scaling=0\.5, as its config says, got 0\.1"),
        (replaced, "a forward of its own"),
        (shared, r"model\.encoder\.layers\.1\.fc1\.weight shared with another"),
        (mixed, r"got .* torch\.float64"),
        (half_trained, r"expected one mode throughout"),
        (two_ends, "one eos_token_id, got"),
        (two_paddings, "one pad_token_id"),
        (lambda theirs: theirs.train(), "no layer drop in training"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_refuses_what_is_not_as_its_config_says(change: Any, message: str) -> None:
    theirs = build("bart", encoder_layerdrop=0.1)
    change(theirs)
    with pytest.raises(ReluctantError, match=message):
        Transformer.from_hugging_face(theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_attention_heads": 2}, r"as many attention_heads in both stacks, got \[4, 2\]"),
        ({"decoder_ffn_dim": 64}, "as many ffn_dim in both stacks"),
        ({"activation_function": "laplace"}, "got laplace: reluctant.register_activation"),
        ({"decoder_start_token_id": 1}, "in M2M100 another token to start with"),
    ],
)
def test_refuses_configs_that_it_has_no_place_for(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ReluctantError, match=message):
        Transformer.from_hugging_face(build("m2m100", **options))


@pytest.mark.parametrize("name", ["no_repeat_ngram_size", "min_length", "bad_words_ids"])
def test_says_what_its_generate_does_besides(name: str) -> None:
    theirs = build("bart")
    setattr(theirs.generation_config, name, [[5]] if name == "bad_words_ids" else 3)
    with pytest.warns(ReluctantWarning, match=name):
        Transformer.from_hugging_face(theirs)
    theirs.generation_config.update(**{name: None})
    Transformer.from_hugging_face(theirs)


def test_probabilities_normalised_again() -> None:
    ended = 0
    for seed in range(4):
        theirs = build("marian", seed).double()
        source, pad = sentences(theirs), theirs.config.pad_token_id
        ours = Transformer.from_hugging_face(with_ends(theirs, source))
        out = theirs.generate(
            source,
            attention_mask=(source != pad).long(),
            **{"num_beams": 3, "num_return_sequences": 3, "do_sample": False},
            **{"max_new_tokens": 9, "bad_words_ids": [[pad]], "renormalize_logits": True},
            **{"return_dict_in_generate": True, "output_scores": True},
        )
        got = pooled_beam_search(ours, source, num_beams=3, max_length=9, renormalize=True)
        assert same(got.tokens.flatten(0, 1), out.sequences[:, 1:], pad)
        torch.testing.assert_close(
            got.scores.flatten().float(), out.sequences_scores, rtol=1e-4, atol=1e-4
        )
        ended += int((got.tokens == ours.config.eos).sum())
    assert ended > 0


def test_float16_is_refused() -> None:
    with pytest.raises(ReluctantError, match="another dtype than float16"):
        Transformer.from_hugging_face(build("bart").half())


class Own(BartForConditionalGeneration):
    """May compute anything."""


def test_refuses_other_classes() -> None:
    config = BartConfig(**SIZES)
    for other in (Own(config), BartForSequenceClassification(config), nn.Linear(2, 2)):
        name = type(other).__name__
        with pytest.raises(ReluctantError, match=rf"expected one of .*MarianMTModel.*; got {name}"):
            Transformer.from_hugging_face(other)
