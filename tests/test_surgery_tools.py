"""Transforms, tracers and compilers of torch see what they saw."""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from layers import (
    D_FF,
    D,
    Own,
    drawn,
    encoder_layer,
    pair,
    same,
)
from reluctant.feedforward import FeedForward
from reluctant.surgery import optimize


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def _vmap(m: nn.Module, x: Tensor) -> Tensor:
    return torch.vmap(m)(x)


def _per_sample(m: nn.Module, x: Tensor) -> Tensor:
    held = dict(m.named_parameters())
    grads = torch.func.grad(lambda p: torch.func.functional_call(m, p, (x,)).sum())(held)
    return torch.cat([g.flatten() for g in grads.values()])


def _functional(m: nn.Module, x: Tensor) -> Tensor:
    weights = {name: 2 * p for name, p in m.named_parameters()}
    return torch.func.functional_call(m, weights, (x,))


def _dual(m: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.forward_ad.dual_level(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, on first use
        y = m(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        return torch.autograd.forward_ad.unpack_dual(y).tangent


def _jit(m: nn.Module, x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(m, (drawn(4, D),), check_trace=False)(x)


def _autocast(m: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return m(x)


def _flops(m: nn.Module, x: Tensor) -> Tensor:
    with FlopCounterMode(display=False) as counter:
        m(x)
    return torch.tensor(counter.get_total_flops())


class Counter(TorchDispatchMode):
    """Counts operations, as profilers and fake tensors' modes see them."""

    seen = 0

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        return func(*args, **(kwargs or {}))


def _counted(m: nn.Module, x: Tensor) -> Tensor:
    with Counter() as counter:
        m(x)
    return torch.tensor(counter.seen)


def _exported(m: nn.Module, x: Tensor) -> Tensor:
    return _export(m, x, strict=False)


def _exported_strictly(m: nn.Module, x: Tensor) -> Tensor:
    return _export(m, x, strict=True)


def _export(m: nn.Module, x: Tensor, *, strict: bool) -> Tensor:
    program = torch.export.export(m, (x,), strict=strict)
    assert "reluctant" not in str(program.graph)
    return program.module()(x)


def _symbolic(m: nn.Module, x: Tensor) -> Tensor:
    return torch.fx.symbolic_trace(m)(x)


def _checkpointed(m: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    checkpoint(m, x, use_reentrant=False).square().sum().backward()
    assert x.grad is not None
    return x.grad


def _twice(m: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(m(x).square().sum(), x, create_graph=True)
    return torch.autograd.grad(first.square().sum(), x)[0]


WATCHED = [_vmap, _per_sample, _functional, _dual, _jit, _flops, _counted, _symbolic]
WATCHED += [_exported, _exported_strictly]
SERVED = [_checkpointed, _twice, _autocast]


@pytest.mark.parametrize("tool", WATCHED + SERVED, ids=lambda tool: tool.__name__[1:])
@pytest.mark.parametrize("warm", [True, False])
def test_the_tools_of_torch_see_what_they_saw(
    tool: Callable[[nn.Module, Tensor], Tensor], warm: bool
) -> None:
    layer, twin, calls = pair(nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D)))
    x = drawn(3, D)
    if warm:
        layer(x)
    before = calls()
    torch.testing.assert_close(tool(layer, x), tool(twin, x), rtol=1e-3, atol=1e-4)
    assert (calls() > before) == (tool in SERVED)
    same(layer(x), twin(x))


def test_compiles_into_one_graph() -> None:
    model = nn.Sequential(encoder_layer(), FeedForward(D, D_FF), Own()).eval()
    twin = copy.deepcopy(model)
    report = optimize(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    same(compiled(drawn(2, 5, D)), twin(drawn(2, 5, D)))
    with torch.no_grad():
        for x in (drawn(2, 5, D), drawn(2, 5, D, seed=1), drawn(1, 1, D)):
            same(compiled(x), twin(x))
    assert all(sum(entry.engine.calls.values()) == 4 for entry in report.swapped)
    for module in (model, twin):  # hooks come before compilation, says torch
        module[2].up.register_forward_hook(lambda module, args, y: y + 1)
    torch.compiler.reset()
    same(compiled(x), twin(x))
    assert sum(report.swapped[2].engine.calls.values()) == 4


class Named(nn.Module):
    """A layer inside a forward that does more, which looks at the name of its class."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, D_FF), nn.Linear(D_FF, D)
        self.activation_fn = nn.functional.relu
        self.seen: list[str] = []

    def forward(self, hidden: Tensor) -> Tensor:
        self.seen.append(f"{type(self).__module__}.{type(self).__qualname__}")
        return hidden + self.fc2(self.activation_fn(self.fc1(hidden)))


def test_classes_keep_their_names() -> None:
    model = nn.Sequential(Own(), Named(), encoder_layer(), FeedForward(D, D_FF)).eval()
    twin = copy.deepcopy(model)
    assert len(optimize(model).swapped) == 4
    for mine, theirs in zip(model.modules(), twin.modules(), strict=True):
        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            assert getattr(type(mine), name) == getattr(type(theirs), name)
        assert mine._get_name() == theirs._get_name()
    assert repr(model) == repr(twin)
    model[1].seen.clear()
    with torch.no_grad():
        for _ in range(2):
            model(drawn(1, 3, D))
    assert set(model[1].seen) == {f"{Named.__module__}.Named"}


def test_classes_pickle_as_the_originals() -> None:
    layer, _, _ = pair(Own())
    assert pickle.loads(pickle.dumps(type(layer))) is Own
    assert pickle.loads(pickle.dumps({type(layer): 1})) == {Own: 1}
    assert copy.deepcopy(type(layer)) is type(layer)


def test_tools_that_look_classes_up_by_name() -> None:
    from accelerate import infer_auto_device_map  # noqa: PLC0415
    from accelerate.utils.dataclasses import get_module_class_from_name  # noqa: PLC0415

    model = nn.Sequential(*(Named() for _ in range(4))).eval()
    twin = copy.deepcopy(model)
    optimize(model)
    found = get_module_class_from_name(model, "Named")
    assert found is not None
    assert all(isinstance(layer, found) for layer in model)
    size = sum(4 * p.numel() for p in model.parameters())
    room = {"cpu": int(0.6 * size), "disk": 10**9}
    maps = [
        infer_auto_device_map(m, max_memory=dict(room), no_split_module_classes=["Named"])
        for m in (model, twin)
    ]
    assert maps[0] == maps[1]
