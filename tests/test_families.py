"""Every family in the table: served as expected, with the answers it had, and put back without a
trace.
"""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import reluctant
from families import FAMILIES, VOCABULARY, Family


def _outputs(model: nn.Module, given: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' and torch's own
        result: Any = model(**given)
    leaves = tree_leaves(dict(result))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _tree(model: nn.Module) -> list[Any]:
    """Names, classes and attributes of all modules; also what is in their dictionaries of hooks,
    parameters and buffers, which are changed in place.
    """
    modules = model.named_modules()
    modules = [(n, m) for n, m in modules if "Router" not in type(m).__name__]  # these keep state
    return [(n, type(m), _inside(m.__dict__), list(m.__dict__)) for n, m in modules]


def _inside(held: dict[str, Any]) -> dict[str, Any]:
    return {name: dict(each) if isinstance(each, dict) else each for name, each in held.items()}


def _calls(report: reluctant.Report) -> list[int]:
    return [sum(entry.engine.calls.values()) for entry in report.swapped if entry.engine]


# One of each kind of layer and of output; `make test-all` has the others.
QUICK = {
    *("OPTForCausalLM", "BartForConditionalGeneration", "T5ForConditionalGeneration"),
    *("DistilBertForMaskedLM", "GPT2LMHeadModel", "NemotronHForCausalLM", "LlamaForCausalLM"),
    *(
        "BitNetForCausalLM",
        "RwkvForCausalLM",
        "Phi3ForCausalLM",
        "ConditionalDetrForObjectDetection",
    ),
    *("AlbertForMaskedLM", "XLMWithLMHeadModel", "Jais2ForCausalLM"),
}


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=[] if f.model in QUICK else pytest.mark.slow) for f in FAMILIES],
    ids=lambda family: family.model,
)
def test_a_family(family: Family) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = family.build()
    twin = copy.deepcopy(model)
    _outputs(model, family.inputs(0, 1))  # the first call sets flags in some
    tree = _tree(model)
    tensors = [*model.parameters(), *model.buffers()]
    weights = [(t, t.detach().clone(), t.stride()) for t in tensors]
    wanted = {tokens: _outputs(twin, family.inputs(0, tokens)) for tokens in (1, 12)}
    report = reluctant.optimize(model)
    assert (len(report.swapped), len(report.refused)) == (family.swapped, family.refused)
    assert not report.untouched
    assert all(family.reason in entry.reason for entry in report.refused)
    assert {entry.activation for entry in report.swapped} <= set(family.activation.split())
    for entry in report.swapped:
        assert entry.engine is not None
        assert entry.engine.sparse == (entry.activation != "gelu")
    _outputs(model, family.inputs(1, 12))  # the first call proves what made-up input could not
    for way in ("auto", "few", "many"):
        if report.swapped:
            reluctant.optimize(model, way=way)
        before = _calls(report)
        for tokens, theirs in wanted.items():
            ours = _outputs(model, family.inputs(0, tokens))
            assert len(ours) == len(theirs) > 0
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, equal_nan=True)
        if "Switch" not in family.model and "Moe" not in family.model:  # experts may stand idle
            assert all(now > then for now, then in zip(_calls(report), before, strict=True))
        if hasattr(model, "generate") and model.can_generate():
            _check_generation(model, twin, family.inputs(2, 5))
    assert reluctant.restore(model) == family.swapped
    assert _tree(model) == tree
    tensors = [*model.parameters(), *model.buffers()]
    for now, (tensor, value, stride) in zip(tensors, weights, strict=True):
        assert now is tensor
        assert torch.equal(now, value)
        assert now.stride() == stride


def _check_generation(model: Any, twin: Any, given: dict[str, Tensor]) -> None:
    given = {name: x for name, x in given.items() if not name.startswith("decoder")}
    more = (
        {"tgt_lang": "eng"}
        if hasattr(model.generation_config, "text_decoder_lang_to_code_id")
        else {}
    )
    ours = model.generate(**given, **more, max_new_tokens=6, do_sample=False)
    theirs = twin.generate(**given, **more, max_new_tokens=6, do_sample=False)
    assert torch.equal(ours, theirs)
    assert int(ours.max()) < VOCABULARY
