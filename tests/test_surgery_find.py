"""Which layers are found and served, which look-alikes are not, and why."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from reluctant.errors import ReluctantError
from reluctant.feedforward import FeedForward
from reluctant.surgery import optimize, restore

D, D_FF = 16, 48


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


class Odd(nn.Module):
    """A feed-forward layer with the down map registered first, under misleading names."""

    def __init__(self, function: Callable[[Tensor], Tensor], d_ff: int = D_FF) -> None:
        super().__init__()
        self.encoder = nn.Linear(d_ff, D)
        self.decoder = nn.Linear(D, d_ff)
        self.noise = nn.Dropout(0.1)
        self.function = function

    def forward(self, hidden: Tensor) -> Tensor:
        return self.encoder(self.noise(self.function(self.decoder(hidden))))


class Between(Odd):
    """The same, with something more: wrap(x, y, h) says what the forward returns."""

    def __init__(self, wrap: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__(F.relu)
        self.wrap = wrap

    def forward(self, hidden: Tensor) -> Tensor:
        return self.wrap(self, hidden)

    def plain(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden)


def own_gelu(z: Tensor) -> Tensor:
    return 0.5 * z * (1.0 + torch.tanh(0.7978845608028654 * (z + 0.044715 * z**3)))


class Swapped(nn.Module):
    """down, up in this order, an activation module, and a forward that wants three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.wo, self.wi = nn.Linear(D_FF, D, bias=False), nn.Linear(D, D_FF, bias=False)
        self.act, self.rest = nn.SiLU(), nn.Identity()

    def forward(self, hidden_states: Tensor) -> Tensor:
        batch, length, _ = hidden_states.shape
        h = self.act(self.wi(hidden_states)).to(self.wo.weight.dtype)
        return self.wo(self.rest(h)).view(batch, length, -1)


SERVED: list[tuple[nn.Module, str]] = [
    (FeedForward(D, D_FF), "relu"),
    (FeedForward(D, D_FF, "relu2", dropout=0.1, bias=False), "relu2"),
    (FeedForward(D, D_FF, "swiglu"), "silu"),
    (FeedForward(D, D_FF, "hardswish", gated=True), "hardswish"),
    (nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(inplace=True), nn.Linear(D_FF, D)), "relu"),
    (
        nn.Sequential(
            *(nn.Dropout(0.1), nn.Linear(D, D_FF), nn.Threshold(0.25, 0.0), nn.Dropout(0.1)),
            *(nn.Linear(D_FF, D), nn.Dropout(0.1)),
        ),
        "thresholded_relu(0.25)",
    ),
    (nn.Sequential(nn.Linear(D, 4), nn.GELU(), nn.Linear(4, D)), "gelu"),
    (nn.Sequential(nn.Linear(D, D), nn.ReLU6(), nn.Linear(D, D)), "relu6"),
    (Odd(F.relu), "relu"),
    (Odd(F.relu, d_ff=D), "relu"),
    (Odd(F.relu, d_ff=5), "relu"),
    (Odd(F.hardswish), "hardswish"),
    (Odd(F.gelu), "gelu"),
    (Odd(own_gelu), "gelu_tanh"),
    (Odd(lambda z: torch.relu(z).pow(2)), "relu2"),
    (Odd(F.gelu).bfloat16(), "gelu"),
    (Odd(own_gelu).half(), "gelu_tanh"),
    (Odd(F.relu).double(), "relu"),
    (Swapped(), "silu"),
    (Swapped().bfloat16(), "silu"),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("layer", "activation"), SERVED)
def test_is_served_and_computes_the_same(layer: nn.Module, activation: str, training: bool) -> None:
    dtype = next(layer.parameters()).dtype
    layer = copy.deepcopy(layer).train(training)
    twin = copy.deepcopy(layer).eval()
    report = optimize(nn.ModuleDict({"ffn": layer}))
    (entry,) = report.swapped
    assert (entry.name, entry.activation, entry.d_model) == ("ffn", activation, D)
    assert not report.refused
    assert not report.untouched
    assert [part.training for part in layer.modules()] == [training] * len([*layer.modules()])
    layer.eval()
    for length in (1, 40):
        x = drawn(2, length, D, dtype=dtype)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(layer(x), twin(x), rtol=20 * eps, atol=20 * eps)
    assert sum(entry.engine.calls.values()) == 2


def test_torch_layers_are_found_in_every_form() -> None:
    kinds = [(True, F.relu), (False, nn.GELU()), (True, "gelu")]
    forms = [
        {"norm_first": norm_first, "batch_first": batch_first, "bias": bias, "activation": kind}
        for norm_first in (True, False)
        for batch_first in (True, False)
        for bias, kind in kinds
    ]
    for form in forms:
        torch.manual_seed(0)
        with warnings.catch_warnings():  # torch's own, about the fused path
            warnings.simplefilter("ignore")
            model = nn.Transformer(D, 2, 1, 2, D_FF, **form).eval()
        twin = copy.deepcopy(model)
        report = optimize(model)
        wanted = ["encoder.layers.0", "decoder.layers.0", "decoder.layers.1"]
        assert [entry.name for entry in report.swapped] == wanted
        name = "relu" if form["activation"] is F.relu else "gelu"
        # a decoder takes copies of its layer, and torch's copy of an nn.GELU there computes ReLU
        copied = "relu" if isinstance(form["activation"], nn.Module) else name
        assert [entry.activation for entry in report.swapped] == [name, copied, copied]
        source, target = drawn(2, 5, D), drawn(2, 5, D, seed=1)
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                torch.testing.assert_close(model(source, target), twin(source, target))
        assert all(sum(entry.engine.calls.values()) == 2 for entry in report.swapped)


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
    "parts: Linear, ReLU, LayerNorm, Linear": nn.Sequential(
        nn.Linear(D, D_FF), nn.ReLU(), nn.LayerNorm(D_FF), nn.Linear(D_FF, D)
    ),
    "parts: Linear, Linear, Linear, ReLU": nn.Sequential(
        nn.Linear(D, D_FF), nn.Linear(D_FF, D), nn.Linear(D, D_FF), nn.ReLU()
    ),
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
    assert [e.name for e in report.swapped] == ["yes"]
    assert type(layer) is cls
    assert layer.__dict__ == held
    assert [part.training for part in layer.modules()] == flags
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in layer.modules())
    with pytest.raises(ReluctantError, match="no feed-forward layer"):
        optimize(layer)


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


def test_global_random_state_stays() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    optimize(nn.ModuleList([Odd(F.relu), Between(lambda m, x: F.dropout(m.plain(x), 0.1))]))
    fresh = torch.get_rng_state()
    torch.manual_seed(5)
    Odd(F.relu), Between(F.relu)  # the draws of the constructors above
    assert torch.equal(torch.get_rng_state(), fresh)
    assert not torch.equal(state, fresh)
