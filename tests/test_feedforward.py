"""The layer against its formula, torch.nn, and torch's compilers."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from reluctant.activations import Activation, names, thresholded_relu
from reluctant.errors import ReluctantError
from reluctant.feedforward import FeedForward

D, D_FF = 16, 40


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def by_hand(layer: FeedForward, x: Tensor) -> Tensor:
    """The formula in float64, as sums over explicit indices."""
    weights = {name: value.double() for name, value in layer.state_dict().items()}

    def linear(name: str, v: Tensor) -> Tensor:
        product = torch.einsum("...j,ij->...i", v, weights[f"{name}.weight"])
        return product + weights.get(f"{name}.bias", torch.zeros(()))

    x = x.double()
    z = linear("gate" if layer.gated else "up", x)
    hidden = layer.activation(z) * (linear("up", x) if layer.gated else 1)
    return linear("down", hidden)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", [*names(), thresholded_relu(0.1)])
def test_is_the_formula(activation: str | Activation, gated: bool, bias: bool) -> None:
    layer = FeedForward(D, D_FF, activation, gated=gated, bias=bias, dtype=torch.float64)
    x = drawn(2, 3, D, dtype=torch.float64)
    torch.testing.assert_close(layer(x), by_hand(layer, x), rtol=1e-12, atol=1e-12)


def test_equals_what_people_write_with_sequential() -> None:
    layer = FeedForward(D, D_FF)
    theirs = nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Dropout(0.0), nn.Linear(D_FF, D))
    theirs[0].load_state_dict(layer.up.state_dict())
    theirs[3].load_state_dict(layer.down.state_dict())
    x = drawn(5, D)
    torch.testing.assert_close(layer(x), theirs(x), rtol=0, atol=0)


def test_equals_the_layer_inside_nn_transformer() -> None:
    theirs = nn.TransformerEncoderLayer(D, 2, D_FF, dropout=0.0, batch_first=True)
    layer = FeedForward(D, D_FF)
    layer.up.load_state_dict(theirs.linear1.state_dict())
    layer.down.load_state_dict(theirs.linear2.state_dict())
    x = drawn(2, 5, D)
    torch.testing.assert_close(layer(x), theirs._ff_block(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        *(("glu", torch.sigmoid), ("reglu", F.relu), ("geglu", F.gelu)),
        *(("swiglu", F.silu), ("bilinear", nn.Identity())),
    ],
)
def test_names_of_gated_layers(name: str, activation: nn.Module) -> None:
    layer = FeedForward(D, D_FF, name)
    assert layer.gated
    x = drawn(3, D)
    theirs = layer.down(activation(layer.gate(x)) * layer.up(x))  # type: ignore[misc]
    torch.testing.assert_close(layer(x), theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("d_model", "plain", "gated"),
    [(512, 2048, 1408), (4096, 16384, 10944), (1, 4, 64), (24, 96, 64)],
)
def test_default_width(d_model: int, plain: int, gated: int) -> None:
    assert FeedForward(d_model, device="meta").up.weight.shape == (plain, d_model)
    assert FeedForward(d_model, gated=True, device="meta").d_ff == gated
    assert 3 * (gated - 64) < 8 * d_model <= 3 * gated


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_state_dict_reads_as_people_know_it(gated: bool, bias: bool) -> None:
    state = FeedForward(D, D_FF, gated=gated, bias=bias).state_dict()
    expected = {"up.weight": (D_FF, D), "down.weight": (D, D_FF)}
    if gated:
        expected["gate.weight"] = (D_FF, D)
    if bias:
        expected |= {k.replace("weight", "bias"): shape[:1] for k, shape in expected.items()}
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


def test_every_position_on_its_own() -> None:
    layer = FeedForward(D, D_FF, dtype=torch.float64)
    x = drawn(2, 9, D, dtype=torch.float64)
    order = torch.tensor([3, 8, 0, 1, 7, 2, 6, 5, 4])
    y = layer(x)
    torch.testing.assert_close(layer(x[:, order]), y[:, order])
    other = x.clone()
    other[:, 4] = 0
    changed = (layer(other) - y).abs().amax((0, 2)) > 1e-6
    assert changed.nonzero().flatten().tolist() == [4]


@pytest.mark.parametrize("shape", [(D,), (1, D), (0, D), (2, 0, D), (2, 3, 4, D)])
def test_any_number_of_leading_dimensions(shape: tuple[int, ...]) -> None:
    layer = FeedForward(D, D_FF, dropout=0.1)
    x = drawn(*shape).requires_grad_()
    y = layer(x)
    assert y.shape == shape
    y.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("name", ["relu", "relu2", "gelu", "swiglu", "reglu"])
def test_gradients(name: str) -> None:
    layer = FeedForward(4, 6, name, dtype=torch.float64)
    x = drawn(3, 4, dtype=torch.float64).requires_grad_()
    parameters = dict(layer.named_parameters())

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *parameters.values()))


def test_it_learns() -> None:
    torch.manual_seed(0)
    layer = FeedForward(4, 32)
    x = drawn(64, 4)
    target = x.abs()  # out of reach of any linear map
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        loss = F.mse_loss(layer(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_dropout_zeroes_and_rescales_what_is_in_between() -> None:
    layer = FeedForward(1, 4000, dropout=0.25, bias=False)
    nn.init.ones_(layer.up.weight)
    nn.init.ones_(layer.down.weight)
    x = torch.ones(1)
    torch.manual_seed(0)
    dropped = layer(x).item()
    kept = dropped / 4000 * 0.75
    assert 0.7 < kept < 0.8
    assert layer(x).item() != dropped
    assert layer.eval()(x).item() == 4000
    assert FeedForward(D, D_FF, dropout=1.0, bias=False)(drawn(2, D)).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    layer = FeedForward(D, D_FF, "swiglu", dtype=dtype)
    x = drawn(3, D, dtype=dtype)
    y = layer(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), by_hand(layer, x), rtol=0.02, atol=0.02)


def test_meta_device_allocates_nothing() -> None:
    layer = FeedForward(10**6, 10**7, "swiglu", device="meta")
    assert layer(torch.empty(2, 10**6, device="meta")).shape == (2, 10**6)


@pytest.mark.parametrize("activation", ["relu", "swiglu", thresholded_relu(0.25)])
def test_copies_pickles_and_state_dicts(activation: str | Activation) -> None:
    layer = FeedForward(D, D_FF, activation)
    x = drawn(3, D)
    y = layer(x)
    other = FeedForward(D, D_FF, activation)
    assert not torch.equal(other(x), y)
    other.load_state_dict(layer.state_dict())
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    twins = [
        *(other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))),
        torch.load(file, weights_only=False),
    ]
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
    for twin in twins:
        assert torch.equal(twin(x), y)
        assert twin.activation == layer.activation


def test_repr_says_what_matters() -> None:
    text = repr(FeedForward(D, D_FF, "geglu", dropout=0.1))
    for part in (f"d_model={D}", f"d_ff={D_FF}", "activation=gelu", "gated=True", "p=0.1"):
        assert part in text


# --- compilers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "activation",
    [
        "relu",
        *(pytest.param(a, marks=pytest.mark.slow) for a in ("swiglu", thresholded_relu(0.25))),
    ],
)
def test_compiles_as_one_graph(activation: str | Activation) -> None:
    layer = FeedForward(D, D_FF, activation, dropout=0.1).eval()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for tokens in (3, 5):
        x = drawn(tokens, D)
        torch.testing.assert_close(compiled(x), layer(x))
        with torch.autocast("cpu", torch.bfloat16):
            assert compiled(x).dtype == torch.bfloat16


@pytest.mark.parametrize("activation", ["relu", "swiglu", thresholded_relu(0.25)])
def test_exports_with_dynamic_batch(activation: str | Activation) -> None:
    layer = FeedForward(D, D_FF, activation, dropout=0.1).eval()
    dynamic = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}}
    exported = torch.export.export(layer, (drawn(2, 3, D),), dynamic_shapes=dynamic)
    x = drawn(5, 7, D)
    torch.testing.assert_close(exported.module()(x), layer(x))


def test_traces_symbolically() -> None:
    layer = FeedForward(D, D_FF, "reglu")
    x = drawn(3, D)
    assert torch.equal(torch.fx.symbolic_trace(layer)(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert FeedForward(D, D_FF)(drawn(3, D, dtype=dtype)).dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided], ids=str)
def test_nested_tensors(layout: torch.layout) -> None:
    layer = FeedForward(D, D_FF)
    parts = [drawn(3, D), drawn(5, D)]
    nested = layer(torch.nested.nested_tensor(parts, layout=layout))
    for part, y in zip(parts, nested.unbind(), strict=True):
        torch.testing.assert_close(y, layer(part))


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({"d_model": bad}, f"d_model.*{bad}") for bad in (0, -3, 8.0, "8", None, True)),
        *(({"d_ff": bad}, f"d_ff.*{bad}") for bad in (0, -3, 8.0, "8", False)),
        *(({"dropout": bad}, "dropout") for bad in (-0.1, 1.1, float("nan"), "0.1", None, True)),
        *(({"activation": bad}, "expected one of elu, gelu") for bad in ("rleu", None, nn.ReLU())),
        *(({"dtype": bad}, "floating") for bad in (torch.int8, torch.complex64)),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ReluctantError, match=message):
        FeedForward(**{"d_model": D, **arguments})  # type: ignore[arg-type]


def test_integers_need_not_be_python_s() -> None:
    numpy = pytest.importorskip("numpy")
    assert FeedForward(numpy.int64(8)).d_ff == 32


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, D + 1), rf"\(\.\.\., {D}\), got \(3, {D + 1}\).*last dimension"),
        (torch.zeros(D, 3), rf"\(\.\.\., {D}\), got \({D}, 3\).*transpose"),
        (torch.zeros(()), r"got \(\)"),
        (torch.zeros(3, D, dtype=torch.int64), "floating-point input, got torch.int64"),
        (torch.zeros(3, D, dtype=torch.complex64), "floating-point input, got torch.complex64"),
        (torch.zeros(3, D, dtype=torch.float64), "torch.float64, the weights are torch.float32"),
        (torch.zeros(3, D, dtype=torch.bfloat16), r"x.to\(torch.float32\)"),
        ([0.0] * D, "takes a tensor.*list"),
    ],
)
def test_wrong_inputs(x: Tensor, message: str) -> None:
    with pytest.raises(ReluctantError, match=message):
        FeedForward(D, D_FF)(x)


class Counts(nn.Module):
    """A parametrization that knows how often it ran, and takes another step each time."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.n += 1
        return weight / self.n


@pytest.mark.parametrize("activation", ["relu", "reglu"])
def test_parametrizations_run_once(activation: str) -> None:
    layer = FeedForward(8, 32, activation)
    for linear in (layer.up, layer.down, layer.gate):
        if linear is not None:
            parametrize.register_parametrization(linear, "weight", Counts())
            linear.parametrizations.weight[0].n = 0
    for n in (1, 2, 3):
        layer(torch.ones(3, 8))
        for linear in (layer.up, layer.down, layer.gate):
            assert linear is None or linear.parametrizations.weight[0].n == n


def _casting_hook(layer: FeedForward) -> None:
    layer.up.register_forward_pre_hook(lambda _, args: args[0].float())


def _casting_forward(layer: FeedForward) -> None:
    layer.up.forward = lambda x: F.linear(x.float(), layer.up.weight)  # type: ignore[method-assign]


class Casts(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()[..., :8])


def _casting_class(layer: FeedForward) -> None:
    layer.up.__class__ = Casts


def _sharded_weight(layer: FeedForward) -> None:
    """As FSDP2 leaves it before its own hooks: a subclass, of another dtype than what runs."""
    weight = Sharded.make(layer.up.weight)
    layer.up._parameters["weight"] = weight  # type: ignore[assignment]


class Sharded(Tensor):
    """Casts what it meets to its own dtype."""

    @staticmethod
    def make(weight: Tensor) -> "Sharded":
        return weight.detach().as_subclass(Sharded)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func is F.linear:
                args = [a.float() if isinstance(a, Tensor) else a for a in args]
            return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "change", [_casting_hook, _casting_forward, _casting_class, _sharded_weight]
)
def test_a_first_map_with_rules_of_its_own(change: Callable[[FeedForward], None]) -> None:
    """It does what the same layer in an nn.Sequential does: the map says what it takes."""
    layer = FeedForward(8, 32)
    change(layer)
    x = torch.randn(3, 8).double()
    stack = nn.Sequential(layer.up, nn.ReLU(), layer.down)
    assert torch.equal(layer(x), stack(x))
    if change is _casting_class:
        wide = torch.randn(3, 12)
        assert torch.equal(layer(wide), stack(wide))
