"""What a forward goes by changes after it was proved: the original code runs, until proved anew."""

import copy
import functools
import pickle
import types
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import D_FF, D, drawn, encoder_layer, same, served
from reluctant.activations import Activation
from reluctant.feedforward import FeedForward
from reluctant.surgery import optimize, refresh, restore


class Options:
    """As a configuration is."""

    def __init__(self) -> None:
        self.p, self.by, self.deeper = 0.0, 1.0, types.SimpleNamespace(scale=1.0)
        self.scales = {"h": [1.0]}


class Scales:
    """A callable object with a number that may change."""

    def __init__(self) -> None:
        self.by = 1.0

    def __call__(self, h: Tensor) -> Tensor:
        return h * self.by

    def method(self, h: Tensor) -> Tensor:
        return self(h)


class Leaks:
    """A callable object with a number that may change."""

    def __init__(self) -> None:
        self.floor = 0.0

    def __call__(self, z: Tensor) -> Tensor:
        return z.clamp(min=self.floor)


class Clips(nn.Module):
    limits: ClassVar[list[float]] = [0.0]
    flag = False

    def __init__(self) -> None:
        super().__init__()
        self.floor = 0.0

    def forward(self, z: Tensor) -> Tensor:
        h = z.clamp(min=self.floor + self.limits[0])
        return 2 * h if self.flag or hasattr(self, "scale") else h


class Mlp(nn.Module):
    """Everything between its maps goes by something plain."""

    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, D_FF), nn.Linear(D_FF, D)
        self.act: Callable[[Tensor], Tensor] = F.relu
        self.partly = functools.partial(torch.mul, other=1.0)
        self.scales, self.bound, self.config = Scales(), Scales().method, Options()
        self.p, self.numbers, self.named = 0.0, [1.0, [0.0]], {"scale": 1.0}
        self.both = (F.relu, [1.0])
        self.none: object = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.partly(self.scales(self.bound(self.act(self.up(x)))))
        h = F.dropout(F.dropout(h, self.p, self.training), self.config.p, self.training)
        h = h * self.factor * self.numbers[0] + self.numbers[1][0]  # type: ignore[index]
        h = h * self.named["scale"] * self.both[1][0] * self.config.deeper.scale
        h = h * self.config.scales["h"][0] if self.none is None else -h
        return self.down(h * self.config.by)


def whole() -> nn.Module:
    return Mlp()


class Inline(nn.Module):
    """The same between the maps, in a forward that does more."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, D_FF), nn.Linear(D_FF, D)
        self.activation_fn: Any = F.relu
        self.p, self.numbers, self.config = 0.0, [1.0], Options()

    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout(self.activation_fn(self.fc1(x)), self.p, self.training)
        h = F.dropout(h, self.config.p, self.training)
        if self.numbers[0] != 1.0:
            h = h * self.numbers[0]
        if self.config.deeper.scale != 1.0:
            h = h * self.config.deeper.scale
        return x + self.fc2(h)


def inline_with(live: Callable[[], Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        layer = Inline()
        layer.activation_fn = live()
        return layer

    return make


def stack(*parts: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        middle = [part() for part in parts]
        return nn.Sequential(nn.Linear(D, D_FF), *middle, nn.Linear(D_FF, D))

    return make


def put(path: str, value: object) -> Callable[[nn.Module], None]:
    *way, last = path.split(".")

    def change(m: nn.Module) -> None:
        held: Any = m
        for name in way:
            held = held[int(name)] if name.isdigit() else getattr(held, name)
        if isinstance(held, list):
            held[int(last)] = value
        elif isinstance(held, dict):
            held[last] = value
        else:
            setattr(held, last, value)

    return change


def trained(change: Callable[[nn.Module], None]) -> Callable[[nn.Module], None]:
    return lambda m: (change(m), m.train())[0]  # type: ignore[func-returns-value]


class Claims:
    def __init__(self) -> None:
        self.cap = torch.inf

    def __call__(self, z: Tensor) -> Tensor:
        return F.relu(z).clamp(max=self.cap)


def _other_config(m: Any) -> None:
    m.config = Options()
    m.config.by = 0.4


def _other_activation(m: Any) -> None:
    m.activation, m.activation_relu_or_gelu = F.gelu, 2


CHANGES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], None]]] = {
    "threshold": (stack(lambda: nn.Threshold(0.0, 0.0)), put("1.threshold", 0.7)),
    "a threshold's value": (stack(lambda: nn.Threshold(0.0, 0.0)), put("1.value", 0.7)),
    "hardtanh's min": (stack(lambda: nn.Hardtanh(0.0, 6.0)), put("1.min_val", -1.0)),
    "hardtanh's max": (stack(lambda: nn.Hardtanh(0.0, 6.0)), put("1.max_val", 0.5)),
    "gelu's formula": (stack(nn.GELU), put("1.approximate", "tanh")),
    "slope": (stack(nn.LeakyReLU), put("1.negative_slope", 0.3)),
    "own activation": (stack(Clips), put("1.floor", -0.3)),
    "own activation's new attribute": (stack(Clips), put("1.scale", 1)),
    "own activation's new buffer": (
        stack(Clips),
        lambda m: m[1].register_buffer("scale", torch.ones(1)),  # type: ignore[index]
    ),
    "own activation's flag": (stack(Clips), put("1.flag", True)),
    "dropout's p": (stack(nn.ReLU, nn.Dropout), trained(put("2.p", 1.0))),
    "function": (whole, put("act", F.gelu)),
    "partial": (whole, put("partly", functools.partial(torch.mul, other=0.4))),
    "in a partial": (whole, put("partly.keywords.other", 0.4)),
    "in a callable": (whole, put("scales.by", 0.4)),
    "bound to": (whole, put("bound.__self__.by", 0.4)),
    "p": (whole, trained(put("p", 1.0))),
    "config's p": (whole, trained(put("config.p", 1.0))),
    "config's number": (whole, put("config.by", 0.4)),
    "config's object": (whole, put("config.deeper.scale", 2.0)),
    "config's list": (whole, lambda m: m.config.scales["h"].__setitem__(0, 3.0)),  # type: ignore
    "another config": (whole, _other_config),
    "list": (whole, put("numbers.0", 2.0)),
    "list in a list": (whole, put("numbers.1.0", 1.0)),
    "dict": (whole, put("named.scale", 0.2)),
    "list in a tuple": (whole, put("both.1.0", 0.2)),
    "None": (whole, put("none", False)),
    "instance over class": (whole, put("factor", 0.5)),
    "FeedForward's own activation": (
        lambda: FeedForward(D, D_FF, Activation("capped", Claims())),
        lambda m: setattr(m.activation.function, "cap", 0.1),
    ),
    "torch's layer": (encoder_layer, _other_activation),
    "inline function": (Inline, put("activation_fn", F.gelu)),
    "inline p": (Inline, trained(put("p", 1.0))),
    "inline config's p": (Inline, trained(put("config.p", 1.0))),
    "inline list": (Inline, put("numbers.0", 2.0)),
    "inline config's object": (Inline, put("config.deeper.scale", 2.0)),
    "inline threshold": (
        inline_with(lambda: nn.Threshold(0.0, 0.0)),
        put("activation_fn.threshold", 0.7),
    ),
    "inline own activation": (inline_with(Clips), put("activation_fn.floor", -0.3)),
    "inline callable": (inline_with(Leaks), put("activation_fn.floor", -0.4)),
    "inline partial": (
        inline_with(lambda: functools.partial(torch.clamp, min=0.0)),
        put("activation_fn.keywords.min", -0.4),
    ),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "how",
    ["as it is", *(pytest.param(how, marks=pytest.mark.slow) for how in ("copied", "pickled"))],
)
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen(name: str, how: str) -> None:
    make, change = CHANGES[name]
    plain = make().eval()
    model = copy.deepcopy(plain)
    assert len(optimize(model).swapped) == 1
    x = drawn(1, 5, D)
    with torch.no_grad():
        if how == "copied":
            model(x)
            model = copy.deepcopy(model)
        elif how == "pickled":
            model = pickle.loads(pickle.dumps(model))
        for _ in range(2):
            same(model(x), plain(x))
        before = plain(x)
        for each in (plain, model):
            change(each)
        torch.manual_seed(1)
        wanted = plain(x)
        assert not torch.equal(wanted, before)
        for again in (lambda: None, lambda: refresh(model), lambda: optimize_or_not(model)):
            again()
            torch.manual_seed(1)
            same(model(x), wanted)
    torch.manual_seed(1)
    same(model(x), wanted)
    restore(model)
    torch.manual_seed(1)
    same(model(x), wanted)


def optimize_or_not(model: nn.Module) -> None:
    optimize(nn.ModuleList([model, FeedForward(D, D_FF)]))


def test_a_change_that_does_not_matter_is_proved_not_to() -> None:
    layer = Mlp().eval()
    twin = copy.deepcopy(layer)
    (entry,) = optimize(layer).swapped
    assert entry.engine is not None
    x = drawn(3, D)
    with torch.no_grad():
        for turn in range(12):
            layer.config.unused = turn  # type: ignore[attr-defined]
            same(layer(x), twin(x))
    served_calls = sum(entry.engine.calls.values())
    assert served_calls == 8 - 0  # after that many it counts as changing all the time
    refresh(layer)
    with torch.no_grad():
        same(layer(x), twin(x))
    assert sum(entry.engine.calls.values()) == served_calls + 1


def test_a_change_back_is_served_again() -> None:
    layer = stack(lambda: nn.Threshold(0.0, 0.0))().eval()
    (entry,) = optimize(layer).swapped
    assert entry.engine is not None
    with torch.no_grad():
        for threshold, expected in ((0.0, 1), (0.5, 1), (0.0, 2), (0.5, 2), (0.0, 3)):
            layer[1].threshold = threshold  # type: ignore[index]
            layer(drawn(3, D))
            assert sum(entry.engine.calls.values()) == expected


def test_optimize_serves_what_a_layer_has_become() -> None:
    layer = stack(lambda: nn.Threshold(0.0, 0.0))().eval()
    optimize(layer)
    layer[1].threshold = 0.5  # type: ignore[index]
    (entry,) = optimize(layer).swapped
    assert entry.activation == "thresholded_relu(0.5)"
    twin = copy.deepcopy(layer)
    restore(twin)
    with torch.no_grad():
        same(layer(drawn(3, D)), twin(drawn(3, D)))
    assert entry.engine is not None
    assert sum(entry.engine.calls.values()) == 1


def test_optimize_and_refresh_forget_what_was_checked() -> None:
    layer = stack(nn.ReLU)().eval()
    optimize(layer)
    for again in (optimize, refresh):
        with torch.no_grad():
            layer(drawn(3, D))
        (seat,) = served(layer)
        assert seat.checked == {(torch.float32, None)}
        again(layer)
        assert not seat.checked
        assert served(layer) == [seat]


@pytest.mark.parametrize(
    "name",
    [
        "threshold",
        "inline p",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("config's number", "p")),
    ],
)
def test_compiled_code_sees_a_change(name: str) -> None:
    make, change = CHANGES[name]
    plain = make().eval()
    model = copy.deepcopy(plain)
    (entry,) = optimize(model).swapped
    x = drawn(3, D)
    try:
        compiled = torch.compile(model, backend="aot_eager")
        with torch.no_grad():
            for _ in range(2):
                same(compiled(x), plain(x))
            for each in (plain, model):
                change(each)
            same(compiled(x), plain(x))
    finally:
        torch.compiler.reset()
    assert entry.engine is not None
    if make is not whole:  # compilers do not follow all that it holds
        assert sum(entry.engine.calls.values()) > 0
