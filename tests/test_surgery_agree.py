"""The comparison: rounding of any order passes, another function does not."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import drawn
from reluctant.activations import names, resolve
from reluctant.surgery.agree import agree
from reluctant.surgery.site import Site

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def site_of(
    d: int,
    d_ff: int,
    activation: str,
    dtype: torch.dtype,
    *,
    gated: bool = False,
    bias: bool = True,
) -> Site:
    torch.manual_seed(0)
    up, gate = (nn.Linear(d, d_ff, bias, dtype=dtype) for _ in range(2))
    down = nn.Linear(d_ff, d, bias, dtype=dtype)
    return Site("forward", up, down, gate if gated else None, resolve(activation), ())


@torch.no_grad()
def eager(site: Site, x: Tensor) -> Tensor:
    hidden = site.activation((site.gate or site.up)(x))
    return site.down(hidden if site.gate is None else hidden * site.up(x))


@torch.no_grad()
def shuffled(site: Site, x: Tensor) -> Tensor:
    """The same in another order: one neuron after the other, features reversed."""
    wide = torch.promote_types(x.dtype, torch.float32)

    def dot(linear: nn.Linear, i: int) -> Tensor:
        bias = 0 if linear.bias is None else linear.bias[i].to(wide)
        z = (x.flip(-1).to(wide) * linear.weight[i].flip(-1).to(wide)).sum(-1, keepdim=True)
        return (z + bias).to(x.dtype)

    y = torch.zeros(x.shape, dtype=wide)
    for i in range(site.d_ff):
        h = site.activation(dot(site.gate or site.up, i))
        if site.gate is not None:
            h = h * dot(site.up, i)
        y = y + h.to(wide) * site.down.weight[:, i].to(wide)
    return (y if site.down.bias is None else y + site.down.bias.to(wide)).to(x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", [n for n in names() if n != "identity"])
def test_rounding_passes(activation: str, gated: bool, dtype: torch.dtype) -> None:
    for d, d_ff, bias, scale in ((32, 96, True, 1.0), (1, 1, False, 1.0), (32, 64, False, 50.0)):
        site = site_of(d, d_ff, activation, dtype, gated=gated, bias=bias)
        x = scale * drawn(40, d, dtype=dtype)
        x[3] = 0
        x[:, 0] *= 30  # an outlier feature, as trained models have
        assert agree(site, x, shuffled(site, x), eager(site, x))


@pytest.mark.parametrize(
    ("right", "wrong", "dtypes"),
    [
        ("gelu", "gelu_tanh", DTYPES[:2]),
        ("relu", "leaky_relu", DTYPES[:2]),
        ("relu", "gelu", DTYPES),
        ("gelu", "silu", DTYPES),
        ("relu", "relu2", DTYPES),
        ("silu", "gelu_quick", DTYPES),
    ],
)
def test_another_activation_does_not(right: str, wrong: str, dtypes: list[torch.dtype]) -> None:
    for dtype in dtypes:
        for tokens in (1, 40):
            x = drawn(tokens, 64, dtype=dtype)
            site, other = (site_of(64, 256, name, dtype) for name in (right, wrong))
            assert agree(site, x, eager(site, x), eager(site, x))
            assert not agree(site, x, eager(site, x), eager(other, x))


def test_small_slips_do_not() -> None:
    site = site_of(64, 256, "relu", torch.float32)
    x = drawn(2, 300, 64)
    y = eager(site, x)
    slips = {
        "one element": (1, 299, 5),
        "a token": (0, 0),
    }
    for at in slips.values():
        off = y.clone()
        off[at] += 1e-3
        assert not agree(site, x, off, y)
    assert not agree(site, x, 1.001 * y, y)
    assert not agree(site, x, y[:, :-1], y)
    assert not agree(site, x, y.double(), y)
    nothing = y.clone()
    nothing[0, 0, 0] = torch.nan
    assert not agree(site, x, nothing, y)


def test_what_is_not_finite_is_set_apart() -> None:
    site = site_of(8, 16, "relu", torch.float32)
    x = drawn(3, 8)
    x[1, 2] = torch.inf
    y = eager(site, x)
    assert not y[1].isfinite().all()
    other = y.clone()
    other[1] = torch.nan
    assert agree(site, x, other, y)
    other[0, 0] += 1
    assert not agree(site, x, other, y)
    empty = x[:0]
    assert agree(site, empty, empty, empty)


def test_large_weights_and_inputs_pass() -> None:
    for scale in (1e-30, 1e30):
        site = site_of(16, 64, "relu", torch.float32)
        x = scale * drawn(5, 16)
        y = eager(site, x)
        assert agree(
            site,
            x,
            y.flip(0).flip(0),
            F.linear(F.relu(site.up(x)), site.down.weight) + (site.down.bias),
        )


@torch.no_grad()
@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_a_norm_widens_nothing(size: float) -> None:
    """Next to small hidden vectors its eps counts, and the slack is as small as the result."""
    site = dataclasses.replace(
        site_of(32, 96, "relu", torch.float32, bias=False), norm=nn.RMSNorm(96, eps=1e-2)
    )
    x = size * drawn(40, 32)
    y = site.down(site.norm(F.relu(site.up(x))))  # type: ignore[misc]
    assert agree(site, x, y * (1 + 1e-6), y)
    assert not agree(site, x, y * 1.001, y)
