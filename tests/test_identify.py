"""Reading a live activation by its behaviour."""

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reluctant.activations import identify, names, resolve

LIVE: list[tuple[object, str]] = [
    (F.relu, "relu"),
    (torch.relu, "relu"),
    (Tensor.relu, "relu"),
    (Tensor.relu_, "relu"),
    (lambda z: z.clamp(min=0), "relu"),
    (functools.partial(F.relu, inplace=True), "relu"),
    (nn.ReLU(), "relu"),
    (nn.ReLU(inplace=True), "relu"),
    (nn.Threshold(0, 0), "relu"),
    (lambda z: F.relu(z) ** 2, "relu2"),
    (nn.ReLU6(inplace=True), "relu6"),
    (nn.Hardtanh(0, 6), "relu6"),
    (nn.LeakyReLU(), "leaky_relu"),
    (nn.ELU(), "elu"),
    (nn.GELU(), "gelu"),
    (F.gelu, "gelu"),
    (nn.GELU(approximate="tanh"), "gelu_tanh"),
    (functools.partial(F.gelu, approximate="tanh"), "gelu_tanh"),
    (lambda z: z * torch.sigmoid(1.702 * z), "gelu_quick"),
    (nn.SiLU(), "silu"),
    (lambda z: z * z.sigmoid(), "silu"),
    (nn.Mish(), "mish"),
    (nn.Softplus(), "softplus"),
    (nn.Tanh(), "tanh"),
    (torch.tanh_, "tanh"),
    (nn.Sigmoid(), "sigmoid"),
    (nn.Hardswish(), "hardswish"),
    (lambda z: z * F.relu6(z + 3) / 6, "hardswish"),
    (nn.Hardsigmoid(), "hardsigmoid"),
    (nn.Threshold(1.0, 0.0), "thresholded_relu"),
    (nn.Threshold(0.37, 0.0, inplace=True), "thresholded_relu(0.37)"),
    (nn.Threshold(-2.5, 0.0), "thresholded_relu(-2.5)"),
    (nn.Threshold(1e5, 0.0), "thresholded_relu(100000.0)"),
    (nn.Identity(), "identity"),
    (resolve("silu"), "silu"),
]


@pytest.mark.parametrize(("live", "name"), LIVE)
def test_identifies(live: object, name: str) -> None:
    found = identify(live)
    assert found is not None
    assert found.name == name


class OtherInTraining(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return F.gelu(z) if self.training else F.relu(z)


class RenamedReLU(nn.ReLU):
    """What a name-based reading would take for a ReLU."""

    def forward(self, z: Tensor) -> Tensor:
        return F.relu(z - 1e-3)


class ShiftedThreshold(nn.Threshold):
    def forward(self, z: Tensor) -> Tensor:
        return F.threshold(z, self.threshold + 1e-5, 0.0)


def _hooked() -> nn.Module:
    module = nn.ReLU()
    module.register_forward_hook(lambda *_: None)
    return module


def _refuse(_: Tensor) -> Tensor:
    raise RuntimeError


def _bump(z: Tensor, at: float) -> Tensor:
    """A ReLU with a hole at one place."""
    return torch.where((z - at).abs() < 1e-7 * abs(at), -1.0, F.relu(z))


def _closure(at: float) -> Callable[[Tensor], Tensor]:
    return lambda z: _bump(z, at)


class Bump(nn.Module):
    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = at

    def forward(self, z: Tensor) -> Tensor:
        return _bump(z, self.at)


LOOK_ALIKES: list[object] = [
    *(nn.LeakyReLU(0.02), nn.LeakyReLU(1e-16), nn.ELU(0.5), nn.CELU(1.1), nn.SELU()),
    *(nn.PReLU(init=0.01), nn.RReLU(), nn.RReLU().eval(), nn.Dropout(), nn.Dropout().eval()),
    *(nn.Softplus(beta=2), nn.Softplus(threshold=10), nn.Hardtanh(), nn.Hardtanh(0, 6.001)),
    *(nn.Threshold(0.5, 0.1), nn.Threshold(0.0, -1e-9), ShiftedThreshold(0.505, 0.0)),
    *(RenamedReLU(), OtherInTraining(), OtherInTraining().eval(), _hooked()),
    *(nn.Softmax(-1), nn.GLU(), nn.LayerNorm(4), nn.BatchNorm1d(3, affine=False)),
    nn.Sequential(nn.ReLU(), nn.Dropout()).eval(),
    nn.PReLU(init=0.01).forward,
    *(_refuse, lambda z: None, lambda z: z.shape, lambda z: F.relu(z).sum(), lambda z: z[1:]),
    *(lambda z: F.relu(z).half(), lambda z: F.relu(z) + 1e-300, lambda z: F.relu(z).clamp(max=100)),
    *(lambda z: z.relu().clamp(min=1e-15), lambda z: torch.where(z > 0, z, 0.0)),  # loses NaN
    *(lambda z: 1.7021 * z * torch.sigmoid(1.702 * z), lambda z: z * torch.sigmoid(1.7021 * z)),
    *(lambda z: F.gelu(z) * (1 + 1e-10), lambda z: F.relu(z) + torch.rand_like(z) * 1e-6),
    *(nn.ReLU, "relu", None, 3, object()),
    # beyond the values that are common
    *(nn.Hardtanh(0.0, cap) for cap in (2e4, 65504.0, 1e20, 3e38, 1e200)),
    *(nn.Hardtanh(-1e-30, 6), nn.Hardtanh(0, 6 + 1e-9), nn.LeakyReLU(1e-9), nn.LeakyReLU(1e-300)),
    *(nn.Threshold(0.0, -1e-300), nn.Threshold(1e-300, 1.0), nn.CELU(1 + 1e-9)),
    *(
        lambda z: F.relu(z - 1e-40),
        lambda z: F.relu(z).clamp(max=65504),
        lambda z: z.clamp(0, 1e38),
    ),
    *(lambda z: z.clamp(min=-1e30) + F.relu(-z - 1e30), lambda z: z.clamp(min=-1e250)),
    *(lambda z: F.relu(z).nan_to_num(nan=torch.nan), lambda z: z.nan_to_num(torch.nan, 0.0)),
    *(lambda z: torch.where(z.isinf(), 0.0, z), lambda z: F.silu(z.clamp(min=-1e35))),
    # between the values: the numbers that a function holds are looked at, too
    *(
        lambda z: torch.where((z - 2.34567).abs() < 1e-7, 0.0, z),
        functools.partial(_bump, at=123.4),
    ),
    *(_closure(77.77), Bump(3.21), lambda z, at=0.123456: _bump(z, at)),
    # by the size, dtype or gradients of what comes
    *(lambda z: F.relu(z) if z.numel() > 1 else z, lambda z: F.relu(z) if z.dim() else 2 * z),
    *(lambda z: F.relu(z) if z.dtype == torch.float64 else F.gelu(z),),
    *(lambda z: F.relu(z) if z.numel() > 9 else F.relu(z) * 1.001,),
    *(lambda z: F.gelu(z) if torch.is_grad_enabled() else F.relu(z),),
    *(lambda z: F.gelu(z) if z.requires_grad else F.relu(z),),
    # rounding
    *(lambda z: F.relu(z).bfloat16().to(z.dtype), lambda z: F.relu(z).float().to(z.dtype)),
    *(lambda z: F.relu(z).round(decimals=12), lambda z: (F.relu(z) * 2**40).round() / 2**40),
    *(lambda z: F.relu(z) * (1 - torch.finfo(z.dtype).eps * 20),),
]


@pytest.mark.parametrize("live", LOOK_ALIKES)
def test_look_alikes_are_not_identified(live: object) -> None:
    assert identify(live) is None


@pytest.mark.parametrize("mode", [True, False])
def test_identify_leaves_everything_as_it_was(mode: bool) -> None:
    module = nn.RReLU().train(mode)
    grads: list[bool] = []
    state = torch.get_rng_state()
    identify(module)
    identify(lambda z: grads.append(torch.is_grad_enabled() or z.requires_grad) or torch.rand(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert module.training == mode
    assert grads == [False]
    assert torch.is_grad_enabled()


def test_identify_does_not_mind_the_caller_s_defaults() -> None:
    with torch.device("meta"), torch.inference_mode():
        assert identify(F.relu) == resolve("relu")


# On some processors torch's own gelu is infinite in the upper half of float32's range.
GELU_ENDS_EARLY = not F.gelu(torch.full((64,), 2e38)).isfinite().all()
HF_NAMES = {
    **{
        "gelu": "gelu",
        "gelu_python": None if GELU_ENDS_EARLY else "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_10": None,
    },
    **{"gelu_pytorch_tanh": "gelu_tanh", "gelu_python_tanh": "gelu_tanh"},
    **{"gelu_accurate": "gelu_tanh", "quick_gelu": "gelu_quick", "relu": "relu"},
    **{"relu2": "relu2", "relu6": "relu6", "silu": "silu", "swish": "silu", "mish": "mish"},
    **{"leaky_relu": "leaky_relu", "linear": "identity", "tanh": "tanh", "sigmoid": "sigmoid"},
    **{"hardswish": "hardswish", "laplace": None, "prelu": None},
}


def test_identifies_hugging_face_s_activations() -> None:
    functions = pytest.importorskip("transformers.activations").ACT2FN
    found = {name: identify(functions[name]) for name in HF_NAMES if name in functions}
    assert len(found) >= 15
    assert {n: a and a.name for n, a in found.items()} == {n: HF_NAMES[n] for n in found}


NARROW: list[tuple[Callable[[Tensor], Tensor], torch.dtype]] = [
    (lambda z: F.gelu(z) if z.dtype == torch.bfloat16 else F.relu(z), torch.bfloat16),
    (lambda z: F.relu(z).clamp(max=1e4) if z.dtype == torch.half else F.relu(z), torch.float16),
    (lambda z: z * F.relu6(z + 3) / 6, torch.float16),  # overflows in the middle of it
]


@pytest.mark.parametrize(("live", "dtype"), NARROW)
def test_a_function_that_differs_in_a_dtype_of_16_bits(
    live: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    assert identify(live) is not None
    assert identify(live, dtype) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", names())
def test_known_ones_are_known_in_16_bits(name: str, dtype: torch.dtype) -> None:
    function = resolve(name).function
    found = identify(function, dtype)
    assert found is not None
    assert found == resolve(name)
