"""Modes of torch that nobody asked for: what they see, and what they change, stays as it was."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from layers import D_FF, D, Own, drawn, encoder_layer, pair, same
from reluctant.errors import ReluctantError
from reluctant.feedforward import FeedForward
from reluctant.surgery import optimize


class Inline(nn.Module):
    """A layer inside a forward that does more."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, D_FF), nn.Linear(D_FF, D)
        self.activation_fn = F.relu

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.fc2(self.activation_fn(self.fc1(hidden)))


def stack() -> nn.Module:
    return nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D))


def swiglu() -> nn.Module:
    return FeedForward(D, D_FF, "reglu")


KINDS: list[Callable[[], nn.Module]] = [stack, swiglu, Own, Inline, encoder_layer]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Doubles(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        y = func(*args, **(kwargs or {}))
        return 2 * y if getattr(func, "__name__", "") == "linear" else y


class Negates(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        y = func(*args, **(kwargs or {}))
        return -y if func is torch.ops.aten.addmm.default else y


@contextmanager
def _both() -> Iterator[None]:
    with torch.device("cpu"), Doubles():
        yield


@pytest.mark.parametrize("mode", [Doubles, Negates, _both], ids=lambda m: m.__name__)
@pytest.mark.parametrize("make", KINDS, ids=lambda m: m.__name__)
def test_modes_see_the_original_code(make: Callable[[], nn.Module], mode: Any) -> None:
    layer, twin, calls = pair(make().train())  # in evaluation torch's own layer is one fused kernel
    x = drawn(2, 3, D)
    for seen_before in (False, True):
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients), mode():
                same(layer(x), twin(x))
        if not seen_before:
            assert calls() == 0
            with torch.no_grad():
                layer(x)
            before = calls()
            assert before == 1
    assert calls() == 1
    with torch.no_grad():
        plain = twin(x)
        with mode():
            assert not torch.allclose(twin(x), plain, atol=1e-3)


@pytest.mark.parametrize("make", KINDS, ids=lambda m: m.__name__)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_default_devices(make: Callable[[], nn.Module], device: str) -> None:
    layer = make().eval()
    twin = copy.deepcopy(layer)
    x = drawn(2, 3, D)
    with torch.no_grad(), torch.device(device):
        (entry,) = optimize(layer).swapped
        assert entry.engine is not None
        same(layer(x), twin(x))
        entry.engine.refresh()
        same(layer(x), twin(x))
        served = sum(entry.engine.calls.values())
        assert served == (2 if device == "cpu" else 0)
    with torch.no_grad():
        same(layer(x), twin(x))
    assert sum(entry.engine.calls.values()) == served + 1


@pytest.mark.parametrize("make", KINDS, ids=lambda m: m.__name__)
def test_a_default_dtype(make: Callable[[], nn.Module]) -> None:
    layer = make().eval()
    twin = copy.deepcopy(layer)
    torch.set_default_dtype(torch.float64)
    try:
        (entry,) = optimize(layer).swapped
        x = drawn(2, 3, D)
        with torch.no_grad():
            same(layer(x), twin(x))
        assert sum(entry.engine.calls.values()) == 1
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "mode",
    [Doubles, Negates, FakeTensorMode, torch.autograd.forward_ad.dual_level],
    ids=lambda m: m.__name__,
)
def test_optimize_refuses_to_try_layers_out_inside_a_mode(mode: Any) -> None:
    layer = stack().eval()
    twin = copy.deepcopy(layer)
    with mode(), pytest.raises(ReluctantError, match="call it outside"):
        optimize(layer)
    assert type(layer) is nn.Sequential
    with torch.no_grad():
        same(layer(drawn(3, D)), twin(drawn(3, D)))


def test_optimize_refuses_inside_a_transform() -> None:
    layer = stack().eval()

    def inside(x: Tensor) -> Tensor:
        optimize(layer)
        return x

    for transform in (torch.vmap, torch.func.grad):
        with pytest.raises(ReluctantError, match="call it outside"):
            transform(inside)(drawn(3))


def test_optimize_minds_no_autocast() -> None:
    for make in KINDS:
        layer = make().eval()
        twin = copy.deepcopy(layer)
        with torch.autocast("cpu", torch.bfloat16):
            (entry,) = optimize(layer).swapped
        with torch.no_grad():
            same(layer(drawn(2, 3, D)), twin(drawn(2, 3, D)))
        assert entry.engine is not None
        assert sum(entry.engine.calls.values()) == 1


@pytest.mark.parametrize("make", [stack, Own, Inline], ids=lambda m: m.__name__)
def test_compiled_code_casts_as_it_did(make: Callable[[], nn.Module]) -> None:
    layer, twin, calls = pair(make().eval())
    x = drawn(3, D)
    ours, theirs = (torch.compile(m, backend="aot_eager", fullgraph=True) for m in (layer, twin))
    try:
        with torch.no_grad():
            layer(x)
            before = calls()
            with torch.autocast("cpu", torch.bfloat16):
                mine, wanted = ours(x), theirs(x)
            assert mine.dtype == wanted.dtype
            torch.testing.assert_close(mine, wanted)
            assert calls() == before
            with Doubles():
                same(ours(x), theirs(x))
            assert calls() == before
            same(ours(x), theirs(x))
            assert calls() == before + 1
    finally:
        torch.compiler.reset()


class CastsInside(Inline):
    def forward(self, hidden: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return hidden + self.fc2(self.activation_fn(self.fc1(hidden)))


def test_autocast_inside_a_forward() -> None:
    layer = CastsInside().eval()
    twin = copy.deepcopy(layer)
    optimize(layer)
    with torch.no_grad():
        for _ in range(2):
            ours, theirs = layer(drawn(3, D)), twin(drawn(3, D))
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours, theirs)


def test_inputs_that_are_no_plain_tensors() -> None:
    layer, twin, calls = pair(stack().eval())
    x = drawn(3, D)
    x[0] = 0
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer(x)
        for given in (x.to_sparse(), x.to_sparse_csr(), x.to_mkldnn(), nn.Parameter(x)):
            results = []
            for model in (layer, twin):
                try:
                    results.append(model(given).to_dense())
                except (RuntimeError, NotImplementedError) as error:
                    results.append(str(error))
            if isinstance(results[1], Tensor):
                same(*results)
            else:
                assert results[0] == results[1]
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            assert type(layer(mode.from_tensor(x))) is type(twin(mode.from_tensor(x)))
    assert calls() == 1


FIRST_USES: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "vmap": lambda m, x: torch.vmap(m)(x),
    "grad": lambda m, x: torch.func.grad(lambda v: m(v).sum())(x),
    "functional_call": lambda m, x: torch.func.functional_call(
        m, {n: 2 * p for n, p in m.named_parameters()}, (x,)
    ),
    "parameters lent": lambda m, x: torch.func.functional_call(
        m, {n: nn.Parameter(2 * p.detach()) for n, p in m.named_parameters()}, (x,)
    ),
}


@pytest.mark.parametrize("use", FIRST_USES)
@pytest.mark.parametrize("make", [stack, Own, Inline], ids=lambda m: m.__name__)
def test_a_first_use(make: Callable[[], nn.Module], use: str) -> None:
    layer, twin, _ = pair(make().eval())
    x = drawn(3, D)
    same(FIRST_USES[use](layer, x), FIRST_USES[use](twin, x))
    with torch.no_grad():
        same(layer(x), twin(x))
        same(FIRST_USES[use](layer, x), FIRST_USES[use](twin, x))
        same(layer(x), twin(x))
