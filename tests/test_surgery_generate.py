"""`generate()` of served models: the tokens it wrote before, however it is asked to."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import reluctant
from families import FAMILIES

BY_NAME = {family.model: family for family in FAMILIES}
# an inline layer in a decoder, an encoder-decoder with one, a gated one, a Conv1D
MODELS = ["OPTForCausalLM", "M2M100ForConditionalGeneration", "LlamaForCausalLM", "GPT2LMHeadModel"]

HOW: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beam": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_k": 20},
    "static cache": {"cache_implementation": "static"},
}


def prompts(batch: int) -> dict[str, Tensor]:
    """Left padded: the first row is full, each further one starts a little later."""
    generator = torch.Generator().manual_seed(batch)
    ids = torch.randint(3, 90, (batch, 9), generator=generator)
    mask = torch.arange(9)[None] >= torch.arange(batch)[:, None]
    return {"input_ids": torch.where(mask, ids, 1), "attention_mask": mask.long()}


def written(model: Any, batch: int, **how: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own
        torch.manual_seed(0)
        how = {"do_sample": False, "disable_compile": True} | how
        ids: Tensor = model.generate(**prompts(batch), max_new_tokens=6, **how)
    return ids


@pytest.mark.parametrize("name", MODELS)
def test_the_same_tokens(name: str) -> None:
    model = BY_NAME[name].build()
    twin = copy.deepcopy(model)
    ways = {"greedy": ("few", 1), "beam": ("many", 2), "sampling": ("few", 8)}
    for how, arguments in HOW.items():
        way, batch = ways.get(how, ("auto", 3))
        report = reluctant.optimize(model, way=way)
        ours, theirs = (written(each, batch, **arguments) for each in (model, twin))
        assert torch.equal(ours, theirs)
    for entry in report.swapped:
        assert entry.engine is not None
        assert entry.engine.calls["few"] > 0


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_up_to_ties(name: str) -> None:
    model = BY_NAME[name].build().bfloat16()
    twin = copy.deepcopy(model)
    assert len(reluctant.optimize(model).swapped) == BY_NAME[name].swapped
    ours, theirs = written(model, 4), written(twin, 4)
    assert ours.shape == theirs.shape
    given = prompts(4)
    for row in range(4):
        differs = (ours[row] != theirs[row]).nonzero()
        if len(differs) == 0:
            continue
        at = int(differs[0])  # from here on they write different texts; was it a tie?
        if "decoder_input_ids" in BY_NAME[name].inputs(0, 1):
            inputs = given | {"decoder_input_ids": theirs[:, :at]}
        else:
            mask = torch.nn.functional.pad(given["attention_mask"], (0, at - 9), value=1)
            inputs = {"input_ids": theirs[:, :at], "attention_mask": mask}
        with torch.no_grad():
            logits = twin(**inputs).logits[row, -1].float()
        gap = logits[theirs[row, at]] - logits[ours[row, at]]
        assert gap.abs() <= 4 * torch.finfo(torch.bfloat16).eps * logits.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_under_autocast_the_original_writes(name: str) -> None:
    model = BY_NAME[name].build()
    twin = copy.deepcopy(model)
    report = reluctant.optimize(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(written(model, 3), written(twin, 3))
    assert not any(sum(entry.engine.calls.values()) for entry in report.swapped if entry.engine)


@pytest.mark.slow
def test_compiled_forward() -> None:
    """The engine's calls stay in the one graph; tokens are those of the model as it was."""
    model: Any = BY_NAME["OPTForCausalLM"].build()
    twin = copy.deepcopy(model)
    report = reluctant.optimize(model)
    model.forward = torch.compile(model.forward, backend="aot_eager", fullgraph=True)
    try:
        assert torch.equal(written(model, 3), written(twin, 3))
    finally:
        torch.compiler.reset()
    assert all(sum(e.engine.calls.values()) >= 6 for e in report.swapped if e.engine)
