"""The activations against their formulas, their zeros, and the registry."""

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reluctant import activations
from reluctant.activations import Activation, identify, names, register, resolve, thresholded_relu
from reluctant.errors import ReluctantError
from reluctant.kernels.codes import HARDSWISH, NONE, RELU, RELU2, RELU6


def _hard_sigmoid(z: float) -> float:
    return min(max(z + 3, 0), 6) / 6


# Scalar formulas in Python's float64, from the papers' definitions.
FORMULAS: dict[str, Callable[[float], float]] = {
    "relu": lambda z: max(z, 0.0),
    "relu2": lambda z: max(z, 0.0) ** 2,
    "relu6": lambda z: min(max(z, 0.0), 6.0),
    "thresholded_relu": lambda z: z if z > 1 else 0.0,
    "hardswish": lambda z: z * _hard_sigmoid(z),
    "hardsigmoid": _hard_sigmoid,
    "leaky_relu": lambda z: z if z > 0 else 0.01 * z,
    "elu": lambda z: z if z > 0 else math.expm1(z),
    "gelu": lambda z: z * math.erfc(-z / math.sqrt(2)) / 2,
    "gelu_tanh": lambda z: z / (1 + math.exp(-math.sqrt(8 / math.pi) * (z + 0.044715 * z**3))),
    "gelu_quick": lambda z: z / (1 + math.exp(-1.702 * z)),
    "silu": lambda z: z / (1 + math.exp(-z)),
    "swish": lambda z: z / (1 + math.exp(-z)),
    "mish": lambda z: z * math.tanh(math.log1p(math.exp(z))),
    "softplus": lambda z: math.log1p(math.exp(z)),
    "tanh": math.tanh,
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "identity": lambda z: z,
}
ZERO_BELOW = {
    **{"relu": 0.0, "relu2": 0.0, "relu6": 0.0, "thresholded_relu": 1.0},
    **{"hardswish": -3.0, "hardsigmoid": -3.0},
}
KERNELS = {
    **{"relu": RELU, "relu2": RELU2, "relu6": RELU6},
    **{"thresholded_relu": RELU, "hardswish": HARDSWISH},
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "_registry", dict(activations._registry))


def test_formulas_cover_every_built_in_name() -> None:
    built_in = {activation.name for activation in activations._BUILT_IN}
    assert built_in | {"swish"} == set(FORMULAS) <= set(names())


@pytest.mark.parametrize("name", FORMULAS)
def test_value(name: str) -> None:
    z = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    expected = torch.tensor([FORMULAS[name](v) for v in z.tolist()], dtype=torch.float64)
    torch.testing.assert_close(resolve(name)(z), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", FORMULAS)
def test_where_it_is_zero_and_which_kernel_computes_it(name: str) -> None:
    activation = resolve(name)
    assert activation.zero_below == ZERO_BELOW.get(name)
    assert activation.kernel == KERNELS.get(name, NONE)


ZERO_CASES = [*map(resolve, ZERO_BELOW), *map(thresholded_relu, (0.3, 0.1, -0.7, 2.0, 0.0))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ZERO_CASES, ids=lambda a: a.name)
@given(distance=st.floats(0, allow_infinity=False) | st.floats(0, 8))
def test_exactly_zero_below(activation: Activation, dtype: torch.dtype, distance: float) -> None:
    assert activation.zero_below is not None
    compared_in = torch.promote_types(dtype, torch.float32)
    point = torch.tensor(activation.zero_below, dtype=compared_in)
    lowest = torch.finfo(dtype).min
    z = (activation.zero_below - torch.tensor([0.0, distance], dtype=torch.float64)).clamp(lowest)
    z = torch.cat([z.to(dtype), torch.tensor([lowest, point], dtype=dtype)])
    z = z[z.to(compared_in) <= point].repeat(12)  # long enough for vectorised code
    assert (activation(z) == 0).all()


@pytest.mark.parametrize("activation", ZERO_CASES, ids=lambda a: a.name)
def test_not_zero_right_above(activation: Activation) -> None:
    assert activation.zero_below is not None
    above = torch.tensor(activation.zero_below, dtype=torch.float32)
    above = torch.nextafter(above, torch.tensor(torch.inf)) if above else torch.tensor(1e-15)
    assert activation(above) != 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_nan_is_kept(name: str, dtype: torch.dtype) -> None:
    assert resolve(name)(torch.full((37,), torch.nan, dtype=dtype)).isnan().all()


@pytest.mark.parametrize("name", FORMULAS)
def test_gradient(name: str) -> None:
    z = torch.tensor([-5.0, -2.5, -0.7, 0.4, 2.5, 7.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(resolve(name), (z,))


@pytest.mark.parametrize("activation", [*map(resolve, FORMULAS), thresholded_relu(0.25)])
def test_pickles_and_copies_to_an_equal_one(activation: Activation) -> None:
    assert pickle.loads(pickle.dumps(activation)) == activation
    assert copy.deepcopy(activation) == activation


def test_thresholds() -> None:
    assert thresholded_relu() is not resolve("thresholded_relu")
    assert thresholded_relu(1) == resolve("thresholded_relu")
    assert thresholded_relu(0.5) == thresholded_relu(0.5) != thresholded_relu(0.25)
    for bad in (math.nan, math.inf, 1e39, "1", None, True):
        with pytest.raises(ReluctantError, match="finite number"):
            thresholded_relu(bad)  # type: ignore[arg-type]


def _refuse(_: Tensor) -> Tensor:
    raise RuntimeError


def _cubed(z: Tensor) -> Tensor:
    return F.relu(z) ** 3


def _shifted(z: Tensor) -> Tensor:
    return F.relu(z + 1)


@pytest.mark.usefixtures("own_registry")
def test_a_registered_activation_is_resolved_and_identified() -> None:
    assert identify(_cubed) is None
    mine = Activation("cubed_relu", _cubed, zero_below=0.0)
    assert register(mine) is mine
    assert register(Activation("cubed_relu", _cubed, zero_below=0.0)) is mine
    assert resolve("cubed_relu") is mine
    assert "cubed_relu" in names()
    assert identify(lambda z: z.relu() * z.relu() * z.relu()) is mine
    assert register(thresholded_relu(0.3)) == resolve("thresholded_relu(0.3)")


@pytest.mark.usefixtures("own_registry")
def test_a_taken_name_is_refused() -> None:
    for name in ("relu", "swish"):
        with pytest.raises(ReluctantError, match="taken"):
            register(Activation(name, _cubed))
    assert resolve("relu")(torch.tensor(2.0)) == 2


@pytest.mark.parametrize(
    "claim",
    [
        Activation("never", F.gelu, zero_below=-3.0),
        Activation("too_high", F.relu, zero_below=1e-6),
        Activation("off_by_one", F.relu, zero_below=-0.5, kernel=RELU2),
        Activation("only_to_minus_10", lambda z: torch.where(z < -10, z, F.relu(z)), 0.0),
        Activation("nan_far_below", lambda z: F.relu(z) * torch.exp(-z) * torch.exp(z), 0.0),
        Activation("at_the_point", lambda z: torch.where(z >= 0, z + 1, 0.0), zero_below=0.0),
        Activation("other_kernel", F.relu, zero_below=0.0, kernel=RELU6),
        Activation("other_slope", lambda z: 2 * F.relu(z), zero_below=0.0, kernel=RELU),
        Activation("no_tensor", lambda z: 0.0),  # type: ignore[arg-type,return-value]
        Activation("not_elementwise", torch.sum),
        Activation("raises", _refuse),
    ],
    ids=lambda a: a.name,
)
def test_false_claims_are_refused(claim: Activation) -> None:
    for call in (register, resolve):
        with pytest.raises(ReluctantError, match=claim.name):
            call(claim)
    assert claim.name not in names()


def test_zero_below_may_be_lower_than_it_could_be() -> None:
    cautious = Activation("cautious", _shifted, zero_below=-1.5)
    assert resolve(cautious) is cautious


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    for unknown in ("rleu", "ReLU", "", None, F.relu, 3):
        with pytest.raises(ReluctantError, match=r"elu, gelu, .*, swish, tanh"):
            resolve(unknown)  # type: ignore[arg-type]
    with pytest.raises(ReluctantError, match="takes an Activation"):
        register(F.relu)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": 3},
        {"function": "relu"},
        {"zero_below": math.nan},
        {"zero_below": -math.inf},
        {"zero_below": "0"},
        {"kernel": 99},
        {"kernel": RELU, "zero_below": None},
    ],
)
def test_fields_of_the_wrong_kind(fields: dict[str, object]) -> None:
    with pytest.raises(ReluctantError):
        Activation(**{"name": "mine", "function": F.relu, "zero_below": 0.0, **fields})  # type: ignore[arg-type]
