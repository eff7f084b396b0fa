"""Torch's own inputs for its Transformer classes: outputs and gradients as they were."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from reluctant.surgery import optimize

pytest.importorskip("expecttest")
from torch.testing._internal.common_modules import ModuleInfo, module_db

INFOS = [info for info in module_db if "Transformer" in info.name]
# torch says which of its layers do not take its fused path, and that nested tensors are new
pytestmark = [
    pytest.mark.filterwarnings("ignore:enable_nested_tensor"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
]


def outcome(module: nn.Module, args: Any, kwargs: Any, gradients: bool) -> list[Any]:
    """A call's results, the gradients of the inputs and those of the parameters."""

    def fresh(value: Any) -> Any:
        return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(
            value, Tensor
        ) else value  # fmt: skip

    args, kwargs = tree_map(fresh, (args, kwargs))
    given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.requires_grad]
    torch.manual_seed(0)
    with torch.set_grad_enabled(gradients):
        results = [t for t in tree_leaves(module(*args, **kwargs)) if isinstance(t, Tensor)]
    if gradients:
        sum(t.square().sum() for t in results).backward()
    found = [*given, *module.parameters()]
    return [*results, *(t.grad for t in found)] if gradients else results


def check(info: ModuleInfo, dtype: torch.dtype, training: bool, every: int) -> None:
    made = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=True, training=training
    )
    for case in made[::every]:
        arguments = case.constructor_input
        torch.manual_seed(1)
        module = info.module_cls(*arguments.args, **arguments.kwargs).to(dtype).train(training)
        twin, call = copy.deepcopy(module), case.forward_input
        report = optimize(module)
        assert report.swapped
        for gradients in (True, False):
            ours = outcome(module, call.args, call.kwargs, gradients)
            theirs = outcome(twin, call.args, call.kwargs, gradients)
            torch.testing.assert_close(ours, theirs)
            module.zero_grad()
            twin.zero_grad()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_some(info: ModuleInfo, dtype: torch.dtype, training: bool) -> None:
    check(info, dtype, training, every=33)


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_all(info: ModuleInfo, dtype: torch.dtype, training: bool) -> None:
    check(info, dtype, training, every=1)


def test_torch_has_inputs_for_all_of_them() -> None:
    assert {info.module_cls for info in INFOS} == {
        *(nn.Transformer, nn.TransformerEncoder),
        *(nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
    }
