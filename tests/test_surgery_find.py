"""Which layers are found and served."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import (
    D_FF,
    Between,
    D,
    Odd,
    drawn,
)
from reluctant.feedforward import FeedForward
from reluctant.surgery import optimize


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


class Gated(nn.Module):
    """The gate registered last, its activation a function; wrap(h) is what goes to down."""

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        wrap: Callable[[Tensor, Tensor], Tensor] = torch.mul,
    ) -> None:
        super().__init__()
        self.w2, self.w1 = nn.Linear(D_FF, D, bias=False), nn.Linear(D, D_FF)
        self.w3 = nn.Linear(D, D_FF)
        self.function, self.wrap = function, wrap

    def forward(self, hidden: Tensor) -> Tensor:
        return self.w2(self.wrap(self.function(self.w3(hidden)), self.w1(hidden)))


SERVED: list[tuple[nn.Module, str]] = [
    (Gated(F.relu), "relu"),
    (Gated(own_gelu), "gelu_tanh"),
    (Gated(own_gelu).bfloat16(), "gelu_tanh"),
    (Gated(F.silu).half(), "silu"),
    (Gated(lambda z: F.relu(z).square()), "relu2"),
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


WRAPS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda h, u: h * u.clamp(-7, 7),
    lambda h, u: h * (u + 1),
    lambda h, u: h * u.detach(),
    lambda h, u: h + u,
    lambda h, u: h * u * u,
    lambda h, u: F.layer_norm(h * u, (D_FF,)),
]


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_gate_that_does_more_is_not_served(wrap: Callable[[Tensor, Tensor], Tensor]) -> None:
    report = optimize(nn.ModuleDict({"no": Gated(F.relu, wrap), "yes": FeedForward(D, D_FF)}))
    assert [entry.name for entry in report.swapped] == ["yes"]
    assert [entry.name for entry in report.refused + report.untouched] == ["no"]


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


def test_global_random_state_stays() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    optimize(nn.ModuleList([Odd(F.relu), Between(lambda m, x: F.dropout(m.plain(x), 0.1))]))
    fresh = torch.get_rng_state()
    torch.manual_seed(5)
    Odd(F.relu), Between(F.relu)  # the draws of the constructors above
    assert torch.equal(torch.get_rng_state(), fresh)
    assert not torch.equal(state, fresh)
