"""Adapters, offloading, quantisation, distribution, files: served, or refused with the reason."""

import copy
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import reluctant
from families import FAMILIES
from layers import D_FF, D
from reluctant.surgery.swap import seat_of

BY_NAME = {family.model: family for family in FAMILIES}
OPT, GPT2 = BY_NAME["OPTForCausalLM"], BY_NAME["GPT2LMHeadModel"]


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        result: Any = model(**OPT.inputs(0, 5))
    return result.logits  # type: ignore[no-any-return]


def calls(model: nn.Module) -> int:
    seats = [seat for module in model.modules() if (seat := seat_of(module))]
    return sum(sum(seat.engine.calls.values()) for seat in seats)


def adapted(model: nn.Module, targets: list[str]) -> Any:
    import peft  # noqa: PLC0415

    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, r=2)).eval()
    torch.manual_seed(2)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return wrapped


@pytest.mark.parametrize("family", [OPT, GPT2], ids=["Linear", "Conv1D"])
def test_adapters(family: Any) -> None:
    targets = ["fc1", "fc2"] if family is OPT else ["c_fc"]
    model = family.build()
    twin = copy.deepcopy(model)
    reluctant.optimize(model)
    torch.testing.assert_close(logits(model), logits(twin), rtol=1e-4, atol=1e-4)
    model, twin = adapted(model, targets), adapted(twin, targets)  # added to served layers
    before = calls(model)
    torch.testing.assert_close(logits(model), logits(twin), rtol=1e-4, atol=1e-4)
    assert calls(model) == before
    report = reluctant.optimize(model)
    assert not report.swapped
    assert {"peft" in entry.reason for entry in report.refused} == {True}
    model, twin = model.merge_and_unload(), twin.merge_and_unload()
    assert len(reluctant.optimize(model).swapped) == 2
    torch.testing.assert_close(logits(model), logits(twin), rtol=1e-4, atol=1e-4)
    assert calls(model) == 2


def test_adapters_of_attention_do_not_matter() -> None:
    model, twin = (adapted(OPT.build(), ["q_proj"]) for _ in range(2))
    assert len(reluctant.optimize(model).swapped) == 2
    torch.testing.assert_close(logits(model), logits(twin), rtol=1e-4, atol=1e-4)
    assert calls(model) == 2


def test_offloading() -> None:
    import accelerate  # noqa: PLC0415

    for before in (True, False):
        model, twin = OPT.build(), OPT.build()
        if before:
            reluctant.optimize(model)
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        if not before:
            report = reluctant.optimize(model)
            assert {"replaced on the instance" in e.reason for e in report.refused} == {True}
            assert (len(report.refused), len(report.swapped)) == (2, 0)
        torch.testing.assert_close(logits(model), logits(twin), rtol=1e-4, atol=1e-4)
        assert calls(model) == 0


def test_quantised() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(OPT.build(), {nn.Linear}, torch.qint8)
        before = logits(model)
    report = reluctant.optimize(model)
    assert (len(report.refused), len(report.swapped)) == (2, 0)
    assert all("quantized" in entry.reason for entry in report.refused)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("family", [OPT, GPT2], ids=["Linear", "Conv1D"])
def test_meta_and_not_finite(family: Any) -> None:
    with torch.device("meta"):
        model = type(OPT.build())(OPT.build().config) if family is OPT else GPT2.build().to("meta")
    assert {"meta" in e.reason for e in reluctant.optimize(model).refused} == {True}
    model = family.build()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.shape in {(32, 72), (72, 32)}:
                parameter[3, 4] = torch.inf
    report = reluctant.optimize(model)
    assert (len(report.refused), len(report.swapped)) == (2, 0)
    assert {"NaN or an infinity" in entry.reason for entry in report.refused} == {True}


def test_distributed() -> None:
    from torch import distributed  # noqa: PLC0415
    from torch.distributed.tensor import distribute_module, init_device_mesh  # noqa: PLC0415

    os.environ.setdefault("MASTER_ADDR", "localhost")
    store = distributed.HashStore()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        try:
            layer = nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D))
            distribute_module(layer, init_device_mesh("cpu", (1,)))
            (entry,) = reluctant.optimize(layer).refused
        finally:
            distributed.destroy_process_group()
    assert "DTensor" in entry.reason


@pytest.mark.parametrize("family", [OPT, GPT2], ids=["Linear", "Conv1D"])
def test_saved_files_are_the_same(family: Any, tmp_path: Path) -> None:
    model = family.build()
    twin = copy.deepcopy(model)
    reluctant.optimize(model)
    model.save_pretrained(tmp_path / "ours")
    twin.save_pretrained(tmp_path / "theirs")
    name = "model.safetensors"
    ours, theirs = (tmp_path / folder / name for folder in ("ours", "theirs"))
    assert ours.read_bytes() == theirs.read_bytes()
    again = type(model).from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-4, atol=1e-4)
    # safetensors itself takes no strided tensors
    held = {k: v for k, v in model.state_dict().items() if "lm_head" not in k}
    save_file(held, tmp_path / "held")
    for key, value in load_file(tmp_path / "held").items():
        assert torch.equal(value, held[key])


@pytest.mark.parametrize("family", [OPT, GPT2, BY_NAME["LlamaForCausalLM"]], ids=lambda f: f.model)
def test_training_with_checkpoints(family: Any) -> None:
    model = family.build().train()
    model.config.dropout = 0.0
    for module in model.modules():
        for name in ("dropout", "p"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    twin = copy.deepcopy(model)
    reluctant.optimize(model)
    losses = []
    for each in (model, twin):
        each.activation_checkpointing_enable()
        given = OPT.inputs(0, 6)
        result = each(**given, labels=given["input_ids"], use_cache=False)
        result.loss.backward()
        losses.append(float(result.loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)
    assert calls(model) == 4  # two layers, forward and recomputed: checkpoints are still taken


@pytest.mark.parametrize("family", [OPT, GPT2, BY_NAME["LlamaForCausalLM"]], ids=lambda f: f.model)
def test_conversions(family: Any) -> None:
    model = family.build()
    twin = copy.deepcopy(model)
    reluctant.optimize(model)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = logits(model), logits(twin)
    torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.1)
    assert calls(model) == 0  # under autocast the original code runs
    for change in ("bfloat16", "half", "double", "float"):
        getattr(model, change)(), getattr(twin, change)()
        logits(model)  # a first call in a dtype proves anew what an inline layer does in it
        before = calls(model)
        eps = torch.finfo(next(model.parameters()).dtype).eps
        torch.testing.assert_close(logits(model), logits(twin), rtol=30 * eps, atol=100 * eps)
        assert calls(model) == before + 2
    fresh = family.build()
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(fresh), logits(twin), rtol=1e-4, atol=1e-4)
