"""`reluctant.generate` writes what `model.generate` does: many families, every logits processor."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import reluctant
from reluctant.surgery.linears import LEAST_VOCABULARY
from tools.tiny import tiny_config

VOCABULARY = LEAST_VOCABULARY + 29
PAD, BEGIN, END = 1, 2, 3
NEW = 6


def build(name: str) -> Any:
    """A tiny model of this class with random weights, and a vocabulary that is served."""
    cls = getattr(transformers, name)
    config = tiny_config(cls.config_class)
    for each in {id(c): c for c in (config, config.get_text_config())}.values():
        each.vocab_size = VOCABULARY
        each.pad_token_id, each.bos_token_id, each.eos_token_id = PAD, BEGIN, END
    if getattr(config, "is_encoder_decoder", False):
        config.decoder_start_token_id = BEGIN
    config.is_decoder = True
    torch.manual_seed(5)
    model = cls(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, weight.shape[-1] ** -0.5)
            elif weight.is_floating_point():
                weight.add_(0.1 * torch.randn_like(weight))
        model.get_output_embeddings().weight.mul_(2.0)
    settings = model.generation_config
    settings.update(pad_token_id=PAD, bos_token_id=BEGIN, eos_token_id=END)
    if model.config.is_encoder_decoder:
        settings.decoder_start_token_id = BEGIN
    return model


SAMPLED = {"do_sample": True, "top_k": 0}
HOW: dict[str, dict[str, Any]] = {
    "greedy": {},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "min_new_tokens": {"min_new_tokens": 4},
    "suppress_tokens": {"suppress_tokens": [4, 5, 900]},
    "begin_suppress_tokens": {"begin_suppress_tokens": [7, 8]},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "forced_bos_token_id": {"forced_bos_token_id": 6},
    "forced_eos_token_id": {"forced_eos_token_id": END},
    "several": {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
    "full sampling": SAMPLED,
    "temperature": SAMPLED | {"temperature": 0.6, "suppress_tokens": [4, 5, 900]},
    "top_k": SAMPLED | {"top_k": 9},
    "top_p": SAMPLED | {"top_p": 0.8, "temperature": 0.5},
    "top_k, top_p": SAMPLED | {"top_k": 40, "top_p": 0.6, "repetition_penalty": 1.3},
    "2 beams": {"num_beams": 2},
    "2 beams, penalty": {"num_beams": 2, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
}
FALLS_BACK = {"bad_words_ids": [[9, 10], [11]]}


def written(ask: Any, **how: Any) -> tuple[Tensor, Tensor]:
    """The tokens of a left-padded batch of two, and the random generator's state afterwards."""
    ids = torch.randint(12, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    ids[1, :2], mask[1, :2] = PAD, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own
        torch.manual_seed(11)
        given = {"max_new_tokens": NEW, "do_sample": False, "disable_compile": True} | how
        found: Tensor = ask(input_ids=ids, attention_mask=mask, **given)
    return found, torch.get_rng_state()


def different(model: Any, served: Any) -> Iterator[str]:
    """The ways of decoding whose tokens, or random numbers, are not the same."""
    for name, how in (HOW | {"bad_words_ids": FALLS_BACK}).items():
        theirs = written(model.generate, **how)
        ours = written(lambda **k: reluctant.generate(served, **k), **how)
        if not all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)):
            yield name


FAST = ["LlamaForCausalLM", "BertLMHeadModel", "Gemma2ForCausalLM"]
FAST += ["T5ForConditionalGeneration", "MBartForConditionalGeneration"]
# Each that a tiny configuration fits, of the classes that transformers names for causal language
# models and for sequence to sequence. FAST are looked at in every run of the tests.
CAUSAL = """
    AXK2 Afmoe Apertus Arcee AriaText Bart Beam BigBird BigBirdPegasus BioGpt BitNet
    BlenderbotSmall Bloom Camembert Cohere2 Cohere2Moe Cohere CpmAnt Cwm Data2VecText
    DeepseekV32 DeepseekV3 DeepseekV4 DiffLlama Doge Electra Emu3 Ernie4_5 Ernie Exaone4
    ExaoneMoe Falcon FalconMamba FlexOlmo Flint Fuyu GPTBigCode GPTNeo GPTNeoX GPTNeoXJapanese
    Gemma3 Gemma4Unified Gemma Git Glm4 Glm4Moe Glm4MoeLite Glm GlmMoeDsa GptOss Granite
    GraniteMoe GraniteMoeSWA GraniteMoeShared GraniteSWA HYV3 HYV4 Helium HyperCLOVAX Inkling
    Jais2 JetMoe Kolibri1 Laguna Lfm2 Llama4 MBart Mamba MegatronBert Mellum MiniCPM3 MiniMax
    MiniMaxM2 MiniMaxM3VL Ministral3 Mistral Mixtral Mllama ModernBertDecoder Moshi Mpt Mvp
    NanoChat OPT Olmo2 Olmo3 Olmo Olmoe PLBart Pegasus Persimmon Phi3 Phi4Multimodal Phi Phimoe
    Qwen2 Qwen2Moe Qwen3 Qwen3Moe RemBert RoCBert RoFormer Roberta RobertaPreLayerNorm SeedOss
    SmolLM3 SolarOpen StableLm Starcoder2 TrOCR VaultGemma Whisper XGLM XLMRoberta XLMRobertaXL
    Youtu Zaya
"""
CONDITIONAL = """
    AudioFlamingo3 Bart BigBirdPegasus BlenderbotSmall Gemma3 Gemma4Unified GlmAsr GotOcr2
    GraniteSpeech GraniteSpeechPlus LED LongT5 M2M100 MT5 MossTranscribeDiarize MusicFlamingo
    Mvp NllbMoe PLBart Pegasus PegasusX Qwen2Audio Qwen3ASR SwitchTransformers UMT5 Voxtral
"""
OTHERS = """
    BertGenerationDecoder CTRLLMHeadModel GPT2LMHeadModel MarianMTModel OpenAIGPTLMHeadModel
    XLNetLMHeadModel
"""
SLOW = [
    *(f"{name}ForCausalLM" for name in CAUSAL.split()),
    *(f"{name}ForConditionalGeneration" for name in CONDITIONAL.split()),
    *OTHERS.split(),
]
# What these ask for in their own configuration, or have after their projection, is none of ours.
WHY_NOT = {
    "BlenderbotForCausalLM": "EncoderNoRepeatNGramLogitsProcessor looks at more than one logit",
    "Inkling2ForCausalLM": "its forward does more to logits than is known",
}


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_the_same_tokens(name: str) -> None:
    model = build(name)
    served = copy.deepcopy(model)
    report = reluctant.optimize(served, parts=("head",))
    assert list(different(model, served)) == []
    assert report.head is not None
    found = report.head.decoding
    assert found is not None
    assert len(found.rows) > 100
    assert found.all < 20
    assert found.beams == 2
    assert [reason.split()[0] for reason in found.reasons] == ["NoBadWordsLogitsProcessor"]


@pytest.mark.slow
@pytest.mark.parametrize("name", WHY_NOT)
def test_the_same_tokens_as_without_us(name: str) -> None:
    model = build(name)
    served = copy.deepcopy(model)
    report = reluctant.optimize(served, parts=("head",))
    assert list(different(model, served)) == []
    assert report.head is not None
    assert report.head.decoding is not None
    assert not report.head.decoding.rows
    assert any(why.startswith(WHY_NOT[name]) for why in report.head.decoding.reasons)


def test_a_word_that_is_not_the_same_shows() -> None:
    model = build("LlamaForCausalLM")
    other = copy.deepcopy(model)
    reluctant.optimize(other, parts=("head",))
    with torch.no_grad():
        other.lm_head.weight[12:] = other.lm_head.weight[12:].roll(1, 0)
    assert len(list(different(model, other))) == len(HOW) + 1
