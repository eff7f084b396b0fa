"""One step, forward and backward, without autograd: over active neurons, or dense."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from reluctant.kernels.sums import HUGE_PRODUCT
from reluctant.training import dense, lists, sparse
from reluctant.training.call import Call, Weights, is_finite


def forward(
    rows: Tensor, weights: Weights, call: Call, seed: int
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """y, the sum of |h|, and what the backward pass needs: see `is_sparse`.

    rows: (tokens, d_model). seed: of dropout.
    """
    rows, weights = plainly(rows), weights.each(Tensor.resolve_neg)
    found = lists.find(rows, weights, call, seed)
    values = None if found.lists is None else sparse.values_of(weights.w2)
    call.seen(found.pairs, found.active, values is not None)
    if found.lists is None or values is None:
        return dense.forward(rows, weights, call, seed, found.z)
    return sparse.forward(rows, weights, call, found.lists, values)


def plainly(rows: Tensor) -> Tensor:
    """Without a sign that is only noted, row after row: as kernels read it."""
    return rows.resolve_neg().contiguous()


def is_sparse(kept: list[Tensor]) -> bool:
    """Whether that is of active neurons: four tensors and, of a gated layer, its factors. The dense
    way keeps three at most."""
    return len(kept) > 3


def are_exact(kept: list[Tensor], weights: Weights, dy: Tensor) -> bool:
    """Whether gradients by what was kept would be the layer's: 0 * inf is none of a zero.

    In gated layers such an infinity may be a dh that overflows, too.
    """
    if not is_sparse(kept) or weights.wg is None:
        return not is_sparse(kept) or is_finite(dy)
    norms = (torch.linalg.vector_norm(t, dtype=torch.float64) for t in (dy, weights.w2))
    return math.prod(map(float, norms)) < HUGE_PRODUCT


def dense_instead(rows: Tensor, weights: Weights, kept: list[Tensor], call: Call) -> list[Tensor]:
    """What the dense way would have kept."""
    _, _, made = dense.forward(rows, weights, replace(call, drop=0.0), 0)
    return made if call.drop == 0 else [*made, stays(made[0], kept)]


def stays(h: Tensor, kept: list[Tensor]) -> Tensor:
    """Which elements of h dropout let be, (tokens, d_ff); of neurons that are not active it does
    not matter."""
    if not is_sparse(kept):
        return kept[-1]
    start, _, neuron, *_ = kept
    found = torch.zeros(h.shape, dtype=torch.bool, device="cpu")
    token = torch.repeat_interleave(torch.arange(len(found), device="cpu"), start.diff())
    found[token, neuron.long()] = True
    return found


def backward(
    rows: Tensor, weights: Weights, kept: list[Tensor], call: Call, dy: Tensor, dsize: Tensor,
    wanted: Any,
) -> list[Any]:  # fmt: skip
    """The gradients of x and of the weights, those that are wanted, where they `are_exact`.

    weights: as in `forward`; biases are not read. dy: (tokens, d_model); dsize: of the sum of |h|.
    """
    step = plainly(rows), weights.each(Tensor.resolve_neg), kept, call, plainly(dy)
    if is_sparse(kept):
        return sparse.backward(*step, float(dsize), wanted)
    return dense.backward(*step, dsize, wanted)
