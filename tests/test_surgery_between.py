"""What a forward may do between its maps: all of it is as it was, whatever decides about it."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import D_FF, D, calls, drawn
from reluctant.surgery import optimize
from reluctant.surgery.deferred import Deferred

Do = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Layer(nn.Module):
    """Does something between its maps when a call asks for it."""

    def __init__(self, live: Any = F.relu) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, D_FF), nn.Linear(D_FF, D)
        self.activation_fn = live
        self.log: list[Any] = []
        self.kept: Any = None

    def forward(self, hidden: Tensor, do: Do | None = None, *, z_too: Do | None = None) -> Tensor:
        z = self.fc1(hidden)
        if z_too is not None:
            z = z_too(self, z, hidden)
        h = self.activation_fn(z)
        if do is not None:
            h = do(self, h, hidden)
        return hidden + self.fc2(h)


def _in_place(function: Callable[[Tensor], object]) -> Do:
    def do(m: nn.Module, h: Tensor, x: Tensor) -> Tensor:
        function(h)
        return h

    return do


def _operator(m: nn.Module, h: Tensor, x: Tensor) -> Tensor:
    h *= 0.5
    return h


def _set_items(m: nn.Module, h: Tensor, x: Tensor) -> Tensor:
    h[..., 0] = 1.0
    h[0] += 2.0
    return h


def _item(m: nn.Module, h: Tensor, x: Tensor) -> Tensor:
    return h * 2 if h.max().item() > 0.1 else h * 3


def _any(m: nn.Module, h: Tensor, x: Tensor) -> Tensor:
    return h / 2 if (h > 0.1).any() else h


def _bool(m: nn.Module, h: Tensor, x: Tensor) -> Tensor:
    return h + 1 if h.reshape(-1)[0] >= 0 else h


def _logs(m: Any, h: Tensor, x: Tensor) -> Tensor:
    m.log.append(float(h.detach().sum()))
    m.log.append(h.tolist()[0][0])
    m.log.append(h.detach().numpy().copy())
    m.log.append(np.asarray(h.detach()).sum())
    m.log.append(repr(h))
    m.log.append(format(h.mean().detach(), ".3f"))
    m.log.append((h.requires_grad, h.is_leaf, h.grad_fn is None, h.stride(), len(h)))
    return h


def _no_grad_looks(m: Any, h: Tensor, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.log.append(h.max().item())
    return h * 2


def _keeps(m: Any, h: Tensor, x: Tensor) -> Tensor:
    m.kept = h
    return h


def _keeps_deep(m: Any, h: Tensor, x: Tensor) -> Tensor:
    m.kept = [{"h": (h,)}]
    return h


def _later(m: Any, h: Tensor, x: Tensor) -> Tensor:
    m.kept = h.sum
    return h


def _input_changes(m: nn.Module, h: Tensor, x: Tensor) -> Tensor:
    with torch.no_grad():
        x.mul_(2)
    return h


def _conversions(m: nn.Module, h: Tensor, x: Tensor) -> Tensor:
    assert h.shape == (*x.shape[:-1], D_FF)
    assert (h.dim(), h.size(-1), h.dtype, h.device) == (x.dim(), D_FF, x.dtype, x.device)
    h = F.dropout(h.to(x.dtype).contiguous().float().type_as(x), 0.3, training=False)
    return F.alpha_dropout(F.dropout(h, p=0.0, training=True, inplace=True), training=False)


def _double(m: nn.Module, h: Tensor, x: Tensor) -> Tensor:
    return h.double().mul(2).to(x.dtype)


def _other_types(m: nn.Module, h: Tensor, x: Tensor) -> Tensor:
    return torch.stack([h, 2 * h]).sum(0) + torch.cat([h, x @ x.new_ones(D, D_FF)], -1)[..., :D_FF]


def _compares(m: nn.Module, h: Tensor, x: Tensor) -> Tensor:
    return h if torch.equal(h, h + 1) else 1 - h


def _hooks(m: Any, h: Tensor, x: Tensor) -> Tensor:
    if h.requires_grad:
        h.register_hook(lambda grad: grad * 2)
    return h


def _detaches(m: nn.Module, h: Tensor, x: Tensor) -> Tensor:
    return h.detach() + h.data


DOES: dict[str, Do] = {
    "scale in place": _operator,
    "clamp in place": _in_place(lambda h: h.clamp_(max=0.1)),
    "out": lambda m, h, x: torch.mul(h, 2, out=torch.empty(0)) if not h.requires_grad else h * 2,
    "items": _set_items,
    "scale": lambda m, h, x: h * 0.5,
    "scale from the left": lambda m, h, x: 0.5 * h,
    "by a tensor": lambda m, h, x: torch.full((D_FF,), 0.5) * h,
    "norm": lambda m, h, x: F.layer_norm(h, (D_FF,)),
    "dropout": lambda m, h, x: F.dropout(h, 0.5, training=True),
    "item": _item,
    "any": _any,
    "bool": _bool,
    "logs": _logs,
    "looks without gradients": _no_grad_looks,
    "keeps": _keeps,
    "keeps in lists": _keeps_deep,
    "keeps for later": _later,
    "input changes": _input_changes,
    "conversions": _conversions,
    "double and back": _double,
    "lists of tensors": _other_types,
    "compares": _compares,
    "gradient hooks": _hooks,
    "detaches": _detaches,
    "shape in place": _in_place(lambda h: h.unsqueeze_(0).squeeze_(0)),
}
LIVE: dict[str, Callable[[], Any]] = {
    "relu": lambda: F.relu,
    "relu_": lambda: torch.relu_,
    "ReLU": nn.ReLU,
    "ReLU in place": lambda: nn.ReLU(inplace=True),
}
SERVED = {"keeps", "keeps in lists", "keeps for later", "input changes", "conversions"}


def outcome(layer: Any, x: Tensor, gradients: bool, **do: Do) -> list[Any]:
    """Everything that a call leaves behind."""
    torch.manual_seed(1)
    layer.log.clear()
    layer.kept = None
    for parameter in layer.parameters():
        parameter.grad = None
    x = x.clone().requires_grad_(gradients)
    given = x * 1
    with torch.set_grad_enabled(gradients):
        y = layer(given, **do)
    kept = layer.kept() if callable(layer.kept) else layer.kept
    seen = [y, given.detach(), kept, list(layer.log), torch.get_rng_state()]
    if gradients:
        y.square().sum().backward()
        seen += [x.grad, *(parameter.grad for parameter in layer.parameters())]
    return seen


def check(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, Tensor):
        assert type(ours) in (Tensor, Deferred)
        torch.testing.assert_close(ours * 1, theirs, rtol=1e-3, atol=1e-4)
    elif isinstance(theirs, list | tuple):
        for a, b in zip(ours, theirs, strict=True):
            check(a, b)
    elif isinstance(theirs, dict):
        check(list(ours.values()), list(theirs.values()))
    elif isinstance(theirs, float | np.ndarray | np.floating):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    elif not isinstance(theirs, str):
        assert ours == theirs


@pytest.mark.parametrize(
    ("what", "live", "where"),
    [
        # Each with one activation and in one place, in turns; `make test-all` has the rest.
        pytest.param(what, live, where, marks=[] if i % 8 == k else pytest.mark.slow)
        for i, what in enumerate(DOES)
        for k, (live, where) in enumerate(itertools.product(LIVE, ("do", "z_too")))
    ],
)
def test_a_call_may_ask_for_it(what: str, live: str, where: str) -> None:
    torch.manual_seed(0)
    layer = Layer(LIVE[live]()).eval()
    twin = copy.deepcopy(layer)
    assert len(optimize(layer).swapped) == 1
    for seen_before in (False, True):
        for gradients in (True, False):
            if gradients and (what in {"input changes"} or live.endswith(("_", "place"))):
                continue  # torch itself refuses some of these
            if (what, where) == ("dropout", "do"):
                continue  # on the active neurons alone: `test_training_layers`
            x = drawn(2, 3, D)
            try:
                wanted = outcome(twin, x, gradients, **{where: DOES[what]})
            except RuntimeError as error:  # in place where gradients need the values
                with pytest.raises(RuntimeError, match=str(error)[:20]):
                    outcome(layer, x, gradients, **{where: DOES[what]})
                continue
            before = calls(layer)
            check(outcome(layer, x, gradients, **{where: DOES[what]}), wanted)
            assert calls(layer) - before == (what in SERVED)
            before = calls(layer)
            check(outcome(layer, x, gradients), outcome(twin, x, gradients))
            assert calls(layer) == before + 1
        assert seen_before or len(optimize(layer).swapped) == 1


class Returns(Layer):
    """Returns what is between, if asked to."""

    def forward(self, hidden: Tensor, output: bool = False) -> Any:  # type: ignore[override]
        z = self.fc1(hidden)
        h = self.activation_fn(z)
        y = hidden + self.fc2(h)
        return {"y": y, "more": [(z, h)]} if output else y


@pytest.mark.parametrize("live", LIVE)
def test_what_is_returned_is_a_plain_tensor(live: str) -> None:
    torch.manual_seed(0)
    layer = Returns(LIVE[live]()).eval().requires_grad_(False)
    twin = copy.deepcopy(layer)
    optimize(layer)
    for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with context():
            x = drawn(2, 3, D)
            ours, theirs = layer(x, output=True), twin(x, output=True)
            check(ours, theirs)
            assert {type(t) for t in (ours["y"], *ours["more"][0])} == {Tensor}
            assert ours["more"][0][0].is_inference() == theirs["more"][0][0].is_inference()
            check(layer(x), twin(x))


def test_weights_written_after_the_call() -> None:
    """What is kept is what it was during the call."""
    torch.manual_seed(0)
    layer = Layer().eval().requires_grad_(False)
    twin = copy.deepcopy(layer)
    optimize(layer)
    x = drawn(2, 3, D)
    for each in (layer, twin):
        each(x, _keeps)
        each.fc1.weight.mul_(2)
    check(layer.kept, twin.kept)


def test_the_caller_s_input_is_never_changed() -> None:
    torch.manual_seed(0)
    layer = Layer().eval().requires_grad_(False)
    optimize(layer)
    x = drawn(2, 3, D)
    before = x.clone()
    for do in (None, _operator, _set_items, DOES["clamp in place"], DOES["shape in place"]):
        layer(x, do)
        assert torch.equal(x, before)
        assert x.shape == before.shape


class ByArgument(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, D_FF), nn.Linear(D_FF, D)
        self.activation_fn = F.relu

    def forward(self, hidden: Tensor, scale: float | None = None, bias: Any = None) -> Tensor:
        h = self.activation_fn(self.fc1(hidden))
        if scale is not None:
            h = h * scale
        if bias is not None:
            h = h + bias
        return hidden + self.fc2(h)


def test_compiled_code_goes_by_the_arguments() -> None:
    torch.manual_seed(0)
    layer = ByArgument().eval().requires_grad_(False)
    twin = copy.deepcopy(layer)
    optimize(layer)
    x = drawn(3, D)
    try:
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        for arguments in ((), (0.5,), (None, torch.ones(D_FF)), (), (2.0,)):
            before = calls(layer)
            check(compiled(x, *arguments), twin(x, *arguments))
            assert calls(layer) - before == (not arguments)
        check(layer(x, 0.5), twin(x, 0.5))
        check(compiled(x, 0.5), twin(x, 0.5))
    finally:
        torch.compiler.reset()
