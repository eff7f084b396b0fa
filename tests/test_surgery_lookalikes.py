"""Which look-alikes are left as they were, which layers are refused, and why."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from layers import D_FF, Between, D, Odd
from reluctant.errors import ReluctantError
from reluctant.feedforward import FeedForward
from reluctant.surgery import optimize, restore

LOOK_ALIKES: dict[str, nn.Module] = {
    "does more with": Between(lambda m, x: x + m.plain(x)),
    "does more with what": Between(lambda m, x: 0.5 * m.plain(x)),
    "returns a tuple": Between(lambda m, x: (m.plain(x), None)),
    "not get the input": Between(lambda m, x: m.plain(F.layer_norm(x, (D,)))),
    "changes its input": Between(lambda m, x: m.plain(x.mul_(2))),
    "each of its two": Between(lambda m, x: m.plain(m.plain(x))),
    "each of its": Between(lambda m, x: m.plain(x) if x.shape[0] > 1 else x),
    "raises TypeError": Between(lambda m, x: m.plain(x, x)),
    "raises NotImplementedError": Between(lambda m, x: nn.Module().forward(x)),
    "keeps state": Between(lambda m, x: setattr(m, "last", x) or m.plain(x)),
    "second Linear": Between(lambda m, x: F.dropout(m.plain(x), 0.1)),
    "no activation": nn.Sequential(nn.Linear(D, 4), nn.Linear(4, D)),
    "no activation between": Odd(lambda z: z),
    "not in the order": nn.Sequential(nn.ReLU(), nn.Linear(D, D_FF), nn.Linear(D_FF, D)),
}


class Scaled(Odd):
    """At initialisation, a scale of one: only its parameter tells."""

    def __init__(self) -> None:
        super().__init__(F.relu)
        self.scale = nn.Parameter(torch.ones(D))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.scale * super().forward(hidden)


class Block(nn.TransformerEncoderLayer):
    def _ff_block(self, x: Tensor) -> Tensor:
        return 2 * super()._ff_block(x)


class Inline(nn.TransformerEncoderLayer):
    def forward(self, src: Tensor, *args: object, **kwargs: object) -> Tensor:
        return self.linear2(self.activation(self.linear1(src)))


LOOK_ALIKES |= {
    "of its own (scale)": Scaled(),
    "_ff_block of its own": Block(D, 2, D_FF),
    "forward of its own": Inline(D, 2, D_FF),
}


@pytest.mark.parametrize("reason", LOOK_ALIKES)
def test_a_look_alike_is_left_as_it_was(reason: str) -> None:
    layer = LOOK_ALIKES[reason]
    cls, held = type(layer), dict(layer.__dict__)
    flags = [part.training for part in layer.modules()]
    report = optimize(nn.ModuleDict({"no": layer, "yes": FeedForward(D, D_FF)}))
    (entry,) = report.untouched
    assert entry.name == "no"
    assert reason in entry.reason
    assert (entry.d_model, entry.d_ff) in {(None, None), (D, D_FF), (D, 4)}
    assert [e.name for e in report.swapped] == ["yes"]
    assert type(layer) is cls
    assert layer.__dict__ == held
    assert [part.training for part in layer.modules()] == flags
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in layer.modules())
    with pytest.raises(ReluctantError, match="no feed-forward layer"):
        optimize(layer)


class StraightThrough(torch.autograd.Function):
    """The values of ReLU, the gradient of the identity."""

    @staticmethod
    def forward(ctx: object, z: Tensor) -> Tensor:
        return z.clamp(min=0)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


class StraightThroughReLU(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return StraightThrough.apply(z)


GRADIENTS: list[nn.Module] = [
    Between(lambda m, x: m.plain(x.detach())),
    Between(lambda m, x: m.plain(x).detach()),
    Between(torch.no_grad()(lambda m, x: m.plain(x))),
    Odd(StraightThrough.apply),
    Odd(lambda z: F.relu(z.detach())),
    nn.Sequential(nn.Linear(D, D_FF), StraightThroughReLU(), nn.Linear(D_FF, D)),
    nn.TransformerEncoderLayer(D, 2, D_FF, activation=StraightThrough.apply, batch_first=True),
]


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("layer", GRADIENTS)
def test_other_gradients_are_another_layer(layer: nn.Module, zero: bool) -> None:
    if zero:
        layer = copy.deepcopy(layer)
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    model = nn.ModuleDict({"no": layer, "yes": FeedForward(D, D_FF)})
    report = optimize(model)
    assert [entry.name for entry in report.swapped] == ["yes"]
    (entry,) = report.refused + report.untouched
    assert "gradient" in entry.reason


class Whole(nn.Module):
    """A Transformer layer with all its maps in one module, without an activation to be seen."""

    def __init__(self, heads: int = D) -> None:
        super().__init__()
        self.query, self.out = nn.Linear(D, heads), nn.Linear(heads, D)
        self.key, self.value = nn.Linear(D, D // 2), nn.Linear(D, D // 2)
        self.first, self.second = nn.Linear(D, D_FF), nn.Linear(D_FF, D)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x + self.out(self.query(x)))))


class Method(Whole):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.between(x)

    def between(self, x: Tensor) -> Tensor:
        return self.second(torch.square(self.first(x).relu()))


class Narrow(nn.Module):
    """TimesFM's: as many neurons as the model is wide."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.second = nn.LayerNorm(D), nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(self.norm(x))))


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(D, D_FF), nn.Linear(D_FF, D)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1](torch.relu(self.layers[0](x)))


class Siblings(nn.Module):
    """BERT's two modules under names that the table does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Linear(D, D_FF), nn.ReLU())
        self.two = nn.Sequential(nn.Linear(D_FF, D), nn.Dropout())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(self.one(x))


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(D, 2 * D_FF), nn.Linear(D_FF, D)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.both(x).chunk(2, -1)
        return self.down(F.relu(gate) * up)


class Experts(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Mixture(nn.Module):
    """JetMoe's: one 3-d parameter in each of two siblings."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.ins, self.outs, self.act = Experts(4, D, 2 * D_FF), Experts(4, D_FF, D), act

    def forward(self, x: Tensor) -> Tensor:
        return self.outs(x)


class Attention(nn.Module):
    """More heads than the model is wide; a query, keys and an output that could be a layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.out = nn.Linear(D, D_FF), nn.Linear(D_FF, D)
        self.key, self.value = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.query(x).softmax(-1).sigmoid())


class Pooled(nn.Module):
    """ALBERT's: a map into the model and one out of it, with all of the model in between."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(D, D), nn.Dropout())
        self.pool, self.pooler_activation = nn.Linear(D, D), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.pooler_activation(self.pool(self.embed(x)))


class Embeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.positions = (nn.Parameter(torch.ones(1, n, D)) for n in (1, 9))
        self.scale, self.shift = (nn.Parameter(torch.ones(D, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.positions + self.first) * self.scale + self.shift


NAMED: dict[str, tuple[nn.Module, str]] = {
    "beside attention": (
        Whole(),
        "stands inside a forward that does more, which is not looked into (first, second;",
    ),
    "in a method": (Method(), "(first, second; its parts"),
    "no wider": (Narrow(), "(first, second; its parts"),
    "in a list": (Listed(), "(0, 1; its parts"),
    "siblings": (Siblings(), "(one.0, two.0; its parts"),
    "norm before": (
        nn.Sequential(nn.LayerNorm(D), nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D)),
        "parts: LayerNorm, Linear, ReLU, Linear",
    ),
    "norm between": (
        nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.LayerNorm(D_FF), nn.Linear(D_FF, D)),
        "parts: Linear, ReLU, LayerNorm, Linear",
    ),
    "fused": (Fused(), "key and gate are one Linear"),
    "experts": (Mixture(nn.ReLU()), "3-d parameters (ins.weight, outs.weight)"),
}


@pytest.mark.parametrize("form", NAMED)
def test_a_layer_in_a_form_that_is_not_served_is_named(form: str) -> None:
    layer, reason = NAMED[form]
    layer = layer.eval()
    model = nn.ModuleDict({"layer": layer, "other": Attention()})
    held = dict(layer.__dict__)
    report = optimize(model)
    assert not report.swapped
    (entry,) = report.refused
    assert entry.name == "layer"
    assert reason in entry.reason
    assert entry.d_model == D
    assert entry.d_ff == (D if form == "no wider" else D_FF)
    assert layer.__dict__ == held


@pytest.mark.parametrize(
    "other",
    [
        Attention(),
        Embeddings(),
        Pooled(),
        Mixture(),
        parametrizations.weight_norm(nn.Conv1d(D, D_FF, 3)),
        nn.ModuleList([nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D)]),
    ],
    ids=lambda other: type(other).__name__,
)
def test_attention_embeddings_and_convolutions_are_not_named(other: nn.Module) -> None:
    report = optimize(nn.ModuleDict({"other": other, "yes": FeedForward(D, D_FF)}))
    assert [entry.name for entry in report.swapped] == ["yes"]
    assert not report.refused
    assert not report.untouched


class Final(type(nn.Module)):
    """The class of classes that have no subclasses."""

    def __new__(cls, name: str, bases: tuple[type, ...], *more: Any) -> Any:
        if any(isinstance(base, Final) for base in bases):
            raise TypeError("this class is final")
        return super().__new__(cls, name, bases, *more)


class Last(Odd, metaclass=Final):
    pass


def test_a_class_that_allows_no_subclass_is_refused() -> None:
    layer = Last(F.relu)
    (entry,) = optimize(layer).refused
    assert "final" in entry.reason
    assert (type(layer), restore(layer)) == (Last, 0)
    assert layer.encoder.weight.is_contiguous()


def test_zero_weights_prove_nothing() -> None:
    layer = Between(lambda m, x: 0.5 * m.plain(x))
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    report = optimize(nn.ModuleDict({"no": layer, "yes": FeedForward(D, D_FF)}))
    assert [entry.name for entry in report.untouched] == ["no"]


class Wrapped(nn.Module):
    """What a low-rank adapter looks like."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.in_features, self.out_features = base, base.in_features, base.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x)


class Lookup(nn.Linear):
    pass


def _adapt(layer: nn.Sequential) -> None:
    layer[0] = Wrapped(layer[0])


def _subclass(layer: nn.Sequential) -> None:
    layer[2] = Lookup(D_FF, D)


def _hook(layer: nn.Sequential) -> None:
    layer[1].register_forward_hook(lambda *_: None)


def _spoil(layer: nn.Sequential) -> None:
    layer[2].weight.data[3, 4] = torch.nan


def _half(layer: nn.Sequential) -> None:
    layer[2].half()


def _unknown(layer: nn.Sequential) -> None:
    layer[1] = nn.PReLU()


def _replaced(layer: nn.Sequential) -> None:
    layer.forward = lambda x: x  # type: ignore[method-assign]


def _part_replaced(layer: nn.Sequential) -> None:
    layer[0].forward = layer[0].forward  # type: ignore[method-assign]


def _copies(layer: nn.Sequential) -> None:
    layer.__class__ = type("Copies", (nn.Sequential,), {"__deepcopy__": lambda self, memo: self})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_adapt, "0 is a Wrapped"),
        (_subclass, "2 is a Lookup"),
        (lambda m: parametrizations.weight_norm(m[0]), "0 is a ParametrizedLinear"),
        (lambda m: prune.l1_unstructured(m[0], "weight", 0.5), "0 has hooks"),
        (_hook, "1 has hooks"),
        (_spoil, "NaN"),
        (_half, "mixed dtypes"),
        (_unknown, "activation PReLU"),
        (_replaced, "replaced on the instance"),
        (_part_replaced, "forward of 0 was replaced"),
        (_copies, "__deepcopy__"),
        (lambda m: m.to("meta"), "meta"),
        (lambda m: m.to(torch.float8_e4m3fn), "float8"),
    ],
)
def test_what_cannot_be_served_is_refused(
    change: Callable[[nn.Module], object], reason: str
) -> None:
    layer = nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D))
    change(layer)
    cls, held = type(layer), dict(layer.__dict__)
    strides = [parameter.stride() for parameter in layer.parameters()]
    report = optimize(layer)
    (entry,) = report.refused
    assert reason in entry.reason
    assert (entry.d_model, entry.d_ff) == (D, D_FF)
    assert not report.swapped
    assert (type(layer), layer.__dict__) == (cls, held)
    assert [parameter.stride() for parameter in layer.parameters()] == strides
    assert restore(layer) == 0
