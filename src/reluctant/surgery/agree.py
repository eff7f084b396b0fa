"""Whether two ways of computing one feed-forward layer differ by more than rounding."""

import math

import torch
from torch import Tensor, nn

from reluctant.surgery.site import Site
from reluctant.weights import eps_of

# Pre-activations looked at in one comparison, tokens at least and at most, weights in one piece:
# what bounds its time at any size. Larger pieces fall out of the cache.
LOOKS, FEWEST, MOST, PIECE = 2**17, 16, 64, 2**18
SIGMAS = 6.0
# Factors of a product are rounded to these, on processors that can, if the user allows it
# (torch.set_float32_matmul_precision).
_SHORT = {"bf16": torch.finfo(torch.bfloat16).eps, "tf32": 2.0**-10}


@torch.no_grad()
def agree(site: Site, x: Tensor, ours: Tensor, theirs: Tensor) -> bool:
    """Whether `ours` is what `theirs` is, but for what rounding may do to this very input.

    x, ours, theirs: (..., d_model), or nested tensors of such. Looks at up to 64 tokens (fewer of
    wide layers, 16 at least), evenly spread, and at elements of theirs that are finite: NaN and
    infinities in x leave nothing to compare.
    """
    theirs_in = theirs.dtype
    if ours.dtype != theirs_in or ours.is_nested != theirs.is_nested:
        return False
    if not ours.is_nested and ours.shape != theirs.shape:
        return False
    x, ours, theirs = _tokens(x), _tokens(ours), _tokens(theirs)
    if ours.shape != theirs.shape:
        return False
    count = x.shape[0]
    taken = min(count, MOST, max(FEWEST, LOOKS // site.d_ff))
    picked = torch.linspace(0, count - 1, taken, device="cpu").round().long()
    x, ours, theirs = x[picked].double(), ours[picked].double(), theirs[picked].double()
    # Under autocast all is rounded to its dtype.
    slack = _slack(site, x, max(site.up.weight.dtype, theirs_in, key=lambda t: torch.finfo(t).eps))
    counts = theirs.isfinite() & slack.isfinite()
    return bool(((ours - theirs).abs() <= slack)[counts].all())


def _tokens(x: Tensor) -> Tensor:
    """All tokens as rows: (tokens, d_model)."""
    if x.is_nested:
        x = torch.cat(list(x.detach().unbind()))
    return x.detach().reshape(-1, x.shape[-1])


def _slack(site: Site, x: Tensor, dtype: torch.dtype) -> Tensor:
    """How far two orders of evaluation may be apart, per element: (tokens, d_model), float64.

    x: (tokens, d_model), float64. Rounding errors are followed through the layer as independent
    ones (a worst case would be so wide that a wrong activation fits in): sums are taken in float32
    or wider, each result is rounded to the weights' dtype, and the activation is evaluated a little
    to either side, which covers any slope. Follows Higham & Mary 2019, "A New Approach to
    Probabilistic Rounding Error Analysis".
    """
    info = torch.finfo(dtype)
    unit = min(info.eps, torch.finfo(torch.float32).eps)
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    short = _SHORT.get(products.fp32_precision, 0.0)
    if dtype is not site.up.weight.dtype:  # the factors, too
        short = max(short, info.eps)
    y, variance = x.new_zeros(x.shape), x.new_zeros(x.shape)
    squares, loose = x.new_zeros(len(x), 1), x.new_zeros(len(x), 1)
    neurons = max(PIECE // site.d_model, 1)
    for start in range(0, site.d_ff, neurons):
        piece = slice(start, start + neurons)
        z, z_error = _product(site.gate or site.up, x, piece, short, info.eps)
        h = site.activation(z)
        h_error = unit * z.abs() + info.tiny
        for side in (z - z_error, z + z_error):
            h_error = torch.maximum(h_error, (site.activation(side) - h).abs())
        if site.gate is not None:
            u, u_error = _product(site.up, x, piece, short, info.eps)
            h, h_error = h * u, h_error * (u.abs() + u_error) + h.abs() * u_error
        h_error = h_error + info.eps * h.abs()
        if site.norm is not None:
            squares = squares + (h**2).sum(1, keepdim=True)
            loose = loose + (h_error**2 * h**2).sum(1, keepdim=True)
            weight: Tensor = site.norm.weight[piece].double()  # type: ignore[index]
            h, h_error = h * weight, (h_error + 2 * max(info.eps, unit) * h.abs()) * weight.abs()
        values = site.down.weight[:, piece].double().T
        y = y + h @ values
        share = unit**2 * site.d_ff + short**2
        variance = variance + (h_error**2 + share * h**2) @ values**2
    if site.norm is not None:  # y / sqrt(mean): of both, the errors
        mean = squares / site.d_ff + eps_of(site.norm)
        y = y * mean.rsqrt()
        variance = variance / mean + y**2 * loose / (site.d_ff * mean) ** 2
    bias = 0.0 if site.down.bias is None else site.down.bias.double()
    y, variance = y + bias, variance + unit**2 * site.d_ff * bias**2
    relative = info.eps + unit * math.sqrt(site.d_ff)
    return SIGMAS * (variance.sqrt() + relative * y.abs() + info.tiny)


def _product(
    linear: nn.Linear, x: Tensor, piece: slice, short: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Some neurons' pre-activations and their errors, both (tokens, neurons), float64.

    short: what the factors are rounded to; eps: the results.
    """
    info = torch.finfo(linear.weight.dtype)
    rows = linear.weight[piece].double()
    bias = 0.0 if linear.bias is None else linear.bias[piece].double()
    z = x @ rows.T + bias
    length = (x**2 @ (rows**2).T + bias**2).sqrt()
    many = min(info.eps, torch.finfo(torch.float32).eps) * math.sqrt(linear.in_features)
    return z, (eps + many) * z.abs() + (many + short) * length + info.tiny
