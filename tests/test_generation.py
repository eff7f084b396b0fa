"""`reluctant.generate`: the tokens that `model.generate` writes, and as many numbers drawn."""

import copy
import logging
import pickle
import warnings
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.generation import logits_process as processors

import reluctant
from reluctant.errors import ReluctantError
from reluctant.generation import decoding
from reluctant.surgery.linears import LEAST_VOCABULARY, HeadSeat

VOCABULARY = LEAST_VOCABULARY + 37  # not whole groups
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SPECIAL = {"vocab_size": VOCABULARY, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}


def _decoder(kind: str, **more: Any) -> Any:
    config = getattr(transformers, f"{kind}Config")(**SPECIAL, **SIZES, **more)
    return getattr(transformers, f"{kind}ForCausalLM")(config)


def _opt() -> Any:
    return _decoder("OPT", ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=128)


def _seq2seq(kind: str, head: str, **more: Any) -> Any:
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder")
             for what, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 64))}  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(
        **SPECIAL,
        d_model=32,
        decoder_start_token_id=2,
        max_position_embeddings=128,
        **sizes,
        **more,
    )
    return getattr(transformers, f"{kind}{head}")(config)


BUILD = {
    "opt, tied": _opt,
    "llama": lambda: _decoder("Llama", intermediate_size=64),
    "gemma 2, a softcap": lambda: _decoder(
        "Gemma2", intermediate_size=64, num_key_value_heads=1, head_dim=16,
        final_logit_softcapping=3.0,
    ),
    "gemma 3": lambda: _decoder("Gemma3Text", intermediate_size=64, head_dim=16)
    if hasattr(transformers, "Gemma3TextForCausalLM") else _decoder("Llama", intermediate_size=64),
    "cohere, a factor": lambda: _decoder("Cohere", intermediate_size=64, logit_scale=0.25),
    "granite, a divisor": lambda: _decoder("Granite", intermediate_size=64, logits_scaling=3.0),
    "gpt neox": lambda: _decoder("GPTNeoX", intermediate_size=64),
    "marian, a bias": lambda: _seq2seq("Marian", "MTModel"),
    "m2m100": lambda: _seq2seq("M2M100", "ForConditionalGeneration"),
}  # fmt: skip


def build(name: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(5)
    model = BUILD[name]().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, weight.shape[-1] ** -0.5)
        model.get_output_embeddings().weight.mul_(2.0)
        if "bias" in name:
            model.final_logits_bias.normal_()
    model.generation_config.update(**{k: v for k, v in SPECIAL.items() if k != "vocab_size"})
    return model.to(dtype)


def prompts(batch: int) -> dict[str, Tensor]:
    """Left padded: the first is full, each further one starts later."""
    ids = torch.randint(4, VOCABULARY, (batch, 7), generator=torch.Generator().manual_seed(batch))
    mask = torch.arange(7)[None] >= torch.arange(batch)[:, None]
    return {"input_ids": torch.where(mask, ids, 1), "attention_mask": mask.long()}


def written(ask: Any, batch: int = 2, **how: Any) -> tuple[Tensor, Tensor]:
    """The tokens, and the generator's state afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own
        torch.manual_seed(11)
        given = {"max_new_tokens": 6, "do_sample": False, "disable_compile": True} | how
        ids: Tensor = ask(**prompts(batch), **given)
    return ids, torch.get_rng_state()


def same(model: Any, served: Any, **how: Any) -> None:
    theirs, ours = (
        written(model.generate, **how),
        written(lambda **k: reluctant.generate(served, **k), **how),
    )
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


SAMPLED = {"do_sample": True, "top_k": 0}
HOW: dict[str, dict[str, Any]] = {
    "greedy": {},
    "one prompt": {"batch": 1},
    "penalty": {"repetition_penalty": 1.7},
    "suppressed": {"suppress_tokens": [4, 5, 900], "begin_suppress_tokens": [7, 8]},
    "length": {"min_new_tokens": 4, "no_repeat_ngram_size": 1},
    "forced end": {"forced_eos_token_id": 3},
    "full sampling": SAMPLED,
    "hot": SAMPLED | {"temperature": 3.0, "repetition_penalty": 1.3},
    "top-k": SAMPLED | {"top_k": 9},
    "top-k, top-p": SAMPLED | {"top_k": 40, "top_p": 0.6, "temperature": 0.7},
    "top-p": SAMPLED | {"top_p": 0.9, "temperature": 0.5},
    "beams": {"num_beams": 3},
    "drawn beams": {"num_beams": 2, "do_sample": True},
    "without a cache": {"use_cache": False},
}


@pytest.mark.parametrize("name", BUILD)
def test_the_same_tokens(name: str) -> None:
    model = build(name)
    served = copy.deepcopy(model)
    report = reluctant.optimize(served)
    assert report.head is not None
    for how in HOW.values():
        same(model, served, **how)
    found = report.head.decoding
    assert len(found.rows) > 50
    assert sorted(found.rows)[len(found.rows) // 2] < VOCABULARY // 8
    assert found.beams == 2
    assert not found.reasons


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["llama", "gemma 2, a softcap", "marian, a bias"])
def test_16_bits_choose_among_their_own_logits(name: str, dtype: torch.dtype) -> None:
    """Certified, token by token, is what all of our own logits say: with the projection alone
    served, and no bound believed."""
    model = build(name, dtype)
    reluctant.optimize(model, parts=["head"])
    everything = copy.deepcopy(model)
    for how in ({}, SAMPLED, SAMPLED | {"top_k": 9}):
        certified = written(lambda **k: reluctant.generate(model, **k), **how)
        full = written(everything.generate, **how)
        assert torch.equal(certified[0], full[0])
        assert torch.equal(certified[1], full[1])


def test_through_custom_generate() -> None:
    model = build("llama")
    plain = copy.deepcopy(model)
    report = reluctant.optimize(model)
    ours = written(lambda **k: model.generate(custom_generate=reluctant.decoding, **k))
    assert torch.equal(ours[0], written(plain.generate)[0])
    assert report.head is not None
    assert report.head.decoding.rows
    assert torch.equal(written(model.generate)[0], ours[0])  # itself as it was


class Twice(processors.TemperatureLogitsWarper):  # type: ignore[misc]
    """A subclass may do anything."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores.roll(1, dims=-1)


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"logits_processor": [Twice(2.0)]}, "Twice looks at more than one logit"),
    (SAMPLED | {"typical_p": 0.9}, "TypicalLogitsWarper looks"),
    (SAMPLED | {"min_p": 0.01}, "MinPLogitsWarper looks"),
    ({"return_dict_in_generate": True, "output_scores": True}, "all scores are asked for"),
    ({"guidance_scale": 1.5}, "UnbatchedClassifierFreeGuidanceLogitsProcessor looks"),
    ({"batch": 17}, "more than 16 sequences"),
]


@pytest.mark.parametrize(("how", "why"), OTHERS, ids=[why for _, why in OTHERS])
def test_what_cannot_be_proved_goes_as_without_us(how: Any, why: str, caplog: Any) -> None:
    model = build("llama")
    served = copy.deepcopy(model)
    report = reluctant.optimize(served)
    with caplog.at_level(logging.INFO, "reluctant"):
        ours = written(lambda **k: reluctant.generate(served, **k), **how)
    theirs = written(model.generate, **how)
    ids = [ours[0], theirs[0]]
    if "return_dict_in_generate" in how:
        ids = [each.sequences for each in ids]
        for a, b in zip(ours[0].scores, theirs[0].scores, strict=True):
            torch.testing.assert_close(a, b)
    assert torch.equal(*ids)
    assert report.head is not None
    assert [reason for reason in report.head.decoding.reasons if reason.startswith(why)]
    assert sum(why in record.message for record in caplog.records) == 1


def test_a_streamer_gets_each_token() -> None:
    class Heard(transformers.generation.streamers.BaseStreamer):  # type: ignore[misc]
        def __init__(self) -> None:
            self.ids: list[int] = []
            self.ended = 0

        def put(self, value: Tensor) -> None:
            self.ids += value.flatten().tolist()

        def end(self) -> None:
            self.ended += 1

    model = build("llama")
    reluctant.optimize(model)
    heard = Heard()
    ids, _ = written(lambda **k: reluctant.generate(model, streamer=heard, **k), batch=1)
    assert heard.ids == ids[0].tolist()
    assert heard.ended == 1


def test_stopping_criteria_and_what_else_is_asked_for() -> None:
    model = build("llama")
    served = copy.deepcopy(model)
    reluctant.optimize(served)
    enough = transformers.StoppingCriteriaList([transformers.MaxLengthCriteria(9)])
    same(model, served, stopping_criteria=enough)
    how = {"return_dict_in_generate": True, "output_hidden_states": True}
    ours = written(lambda **k: reluctant.generate(served, **k), **how)[0]
    theirs = written(model.generate, **how)[0]
    assert torch.equal(ours.sequences, theirs.sequences)
    assert len(ours.hidden_states) == len(theirs.hidden_states)


def test_weights_that_change_between_two_calls() -> None:
    model = build("llama")
    served = copy.deepcopy(model)
    reluctant.optimize(served)
    for change in (lambda w: w.mul_(-1.5), lambda w: w.data.mul_(-1.0), lambda w: w[::3].zero_()):
        same(model, served)
        with torch.no_grad():
            for each in (model, served):
                change(each.get_output_embeddings().weight)
        same(model, served)


def test_ties_go_to_the_lowest_id() -> None:
    model = build("llama")
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight[2000:] = head.weight[10 : VOCABULARY - 1990].clone()
    served = copy.deepcopy(model)
    reluctant.optimize(served)
    for how in ({}, {"repetition_penalty": 2.0}):
        same(model, served, **how)


def test_a_model_that_makes_nan() -> None:
    model = build("llama")
    with torch.no_grad():
        model.model.norm.weight[3] = torch.nan
    served = copy.deepcopy(model)
    report = reluctant.optimize(served)
    same(model, served)
    assert report.head is not None
    assert report.head.decoding.all > 0


def test_another_forward_than_is_known() -> None:
    class Odd(transformers.LlamaForCausalLM):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            out.logits = out.logits.roll(5, dims=-1)
            return out

    model = build("llama")
    odd = Odd(model.config).eval()
    odd.load_state_dict(model.state_dict())
    served = copy.deepcopy(odd)
    report = reluctant.optimize(served)
    same(odd, served)
    assert report.head is not None
    assert not report.head.decoding.rows
    assert "its forward does more to logits than is known" in report.head.decoding.reasons


def test_a_cap_that_is_changed_later() -> None:
    model = build("gemma 2, a softcap")
    served = copy.deepcopy(model)
    reluctant.optimize(served)
    same(model, served, **SAMPLED)
    for each in (model, served):
        each.config.final_logit_softcapping = 0.01
    same(model, served, **SAMPLED)


def test_a_cap_where_there_was_none() -> None:
    model = build("gemma 2, a softcap")
    model.config.final_logit_softcapping = None
    served = copy.deepcopy(model)
    report = reluctant.optimize(served)
    same(model, served, **SAMPLED)
    for each in (model, served):
        each.config.final_logit_softcapping = 0.5
    same(model, served, **SAMPLED)
    assert report.head is not None
    assert len(report.head.decoding.rows) > 10


def test_a_projection_with_a_nan() -> None:
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight[77, 3] = torch.nan
    served = copy.deepcopy(model)
    report = reluctant.optimize(served)
    same(model, served)
    assert report.head is not None
    assert not report.head.decoding.rows
    assert any("NaN or an infinity" in reason for reason in report.head.decoding.reasons)


@pytest.mark.parametrize("on", ["model", "head"])
def test_who_hooks_in_sees_logits(on: str) -> None:
    model = build("llama")
    served = copy.deepcopy(model)
    report = reluctant.optimize(served)
    assert report.head is not None
    same(model, served)
    decided = len(report.head.decoding.rows)
    heard: list[Tensor] = []
    whose = served if on == "model" else served.lm_head
    whose.register_forward_hook(lambda _m, _a, out: heard.append(getattr(out, "logits", out)))
    same(model, served)
    assert len(report.head.decoding.rows) == decided > 0
    assert len(heard) == 6
    assert all(logits.std() > 0 for logits in heard)


def test_a_prompt_in_chunks() -> None:
    model = build("llama")
    served = copy.deepcopy(model)
    reluctant.optimize(served)
    same(model, served)
    same(model, served, prefill_chunk_size=3)


def test_parts() -> None:
    model = build("opt, tied")
    with pytest.raises(ReluctantError, match="parts"):
        reluctant.optimize(model, parts=["everything"])
    with pytest.raises(ReluctantError, match="parts"):
        reluctant.optimize(model, parts=[])
    report = reluctant.optimize(model, parts=["feed_forward"])
    assert report.swapped
    assert not report.maps
    assert report.head is None
    assert type(model.lm_head) is nn.Linear
    report = reluctant.optimize(model, parts=["head"])
    assert not report.swapped
    assert [entry.name for entry in report.maps] == ["lm_head"]
    assert "output projection" in str(report)
    reluctant.restore(model)
    assert type(model.lm_head) is nn.Linear


def test_what_a_report_says_of_decoding() -> None:
    model = build("llama")
    report = reluctant.optimize(model)
    assert report.memory_bytes == sum(e.engine.memory_bytes for e in report.swapped)
    assert report.head is not None
    assert str(report.head.decoding) == "ready for reluctant.generate"
    written(lambda **k: reluctant.generate(model, **k))
    assert "10 tokens decided, rows read: median" in str(report.head.decoding)
    assert "output projection" in str(report)
    assert report.memory_bytes > VOCABULARY * 32  # a byte a weight


def test_copies_and_pickles_have_projections_of_their_own() -> None:
    model = build("llama")
    reluctant.optimize(model)
    plain = written(lambda **k: reluctant.generate(model, **k))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        seat = other.lm_head.__dict__["_reluctant"]
        assert isinstance(seat, HeadSeat)
        assert seat.projection is None
        with torch.no_grad():
            other.lm_head.weight.mul_(-1.0)
        assert not torch.equal(
            written(lambda o=other, **k: reluctant.generate(o, **k))[0], plain[0]
        )
    assert torch.equal(written(lambda **k: reluctant.generate(model, **k))[0], plain[0])


def test_in_inference_mode() -> None:
    model = build("llama")
    served = copy.deepcopy(model)
    reluctant.optimize(served)
    with torch.inference_mode():
        same(model, served)
    same(model, served)


def test_no_model_to_generate_with() -> None:
    with pytest.raises(ReluctantError, match="generate"):
        reluctant.generate(nn.Linear(3, 4))


def test_beams_are_refused_by_name_where_a_mode_is_not_known() -> None:
    model = build("llama")
    config = copy.deepcopy(model.generation_config)
    config.update(penalty_alpha=0.6, top_k=4)
    with pytest.raises(ReluctantError, match=r"reluctant\.generate"):
        decoding.decoding(model, prompts(1)["input_ids"], None, None, config)
