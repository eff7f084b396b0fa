"""The products of a step in full, for crowded calls, by torch.

Not by oneDNN, where that is the faster: it adds one long chain up, and the gradients' error is then
up to 2.5 times torch's.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reluctant.kernels.codes import HARDSWISH, RELU2, RELU6
from reluctant.training.call import Call, Weights


def forward(
    rows: Tensor, weights: Weights, call: Call, seed: int, z: Tensor | None = None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """y, the sum of |h|, and what is to be kept: z (of a ReLU what becomes of it), a gated layer's
    factors, what dropout lets be. z: the first tokens' first product, if it is there.
    """
    done = 0 if z is None else len(z)
    if z is None or done < len(rows):
        rest = F.linear(rows[done:], *weights.fires)
        z = rest if z is None else torch.cat([z, rest])
    h = torch.relu_(z) if call.activation.name == "relu" else call.activation(z)
    kept = [z]
    if weights.wg is not None:
        kept.append(F.linear(rows, weights.w1, weights.b1))
        h = h * kept[-1]
    if call.drop > 0:
        draw = torch.Generator("cpu").manual_seed(seed)
        stays = torch.empty(h.shape, dtype=torch.bool, device="cpu")
        kept.append(stays.bernoulli_(1 - call.drop, generator=draw))
        h = h * (stays.to(h.dtype) * call.scale)
    wide = torch.float32
    size = h.abs().sum(dtype=wide) if call.sized else h.new_zeros((), dtype=wide)
    return F.linear(h, weights.w2, weights.b2), size, kept


def backward(
    rows: Tensor, weights: Weights, kept: list[Tensor], call: Call, dy: Tensor, dsize: Tensor,
    wanted: Any,
) -> list[Any]:  # fmt: skip
    """The gradients of x and of the six weights; None where they are not wanted.

    dy: (tokens, d_model), contiguous; dsize: of the sum of |h|.
    """
    w1, _, w2, _, wg, _ = weights
    z, factor = kept[0], None if wg is None else kept[1]
    scale = None if call.drop == 0 else kept[-1].to(z.dtype) * call.scale
    value = z if call.activation.name == "relu" else call.activation(z)
    h = value if factor is None else value * factor
    h = h if scale is None else h * scale
    found: list[Any] = [None] * len(wanted)
    if wanted[3]:
        found[3] = dy.t() @ h
    if wanted[4]:
        found[4] = dy.sum(0)
    if not any(wanted[k] for k in (0, 1, 2, 5, 6)):
        return found
    dh = dy @ w2
    if dsize != 0:
        dh = dh.add_(h.sign(), alpha=float(dsize))
    dh = dh if scale is None else dh * scale
    dz = _through(call, z, dh if factor is None else dh * factor)
    fires, _ = weights.fires
    maps = [(dz, fires, 1)] if factor is None else [(dz, fires, 5), (dh * value, w1, 1)]
    for each, weight, at in maps:
        if wanted[0]:
            part = each @ weight
            found[0] = part if found[0] is None else found[0] + part
        if wanted[at]:
            found[at] = each.t() @ rows
        if wanted[at + 1]:
            found[at + 1] = each.sum(0)
    return found


def _through(call: Call, z: Tensor, dh: Tensor) -> Tensor:
    """f'(z) dh, as autograd has it."""
    aten, kernel = torch.ops.aten, call.activation.kernel
    if kernel == RELU6:
        dz: Tensor = aten.hardtanh_backward(dh, z, 0.0, 6.0)
    elif kernel == HARDSWISH:
        dz = aten.hardswish_backward(dh, z)
    else:
        dh = dh * (2 * torch.relu(z)) if kernel == RELU2 else dh
        dz = aten.threshold_backward(dh, z, call.activation.zero_below)
    return dz
