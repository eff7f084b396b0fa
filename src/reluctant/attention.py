"""Attention of which every query has bits of its own, whatever else is in the batch."""

import numpy as np
import torch
from torch import Tensor

from reluctant.kernels import attention as kernels
from reluctant.kernels.team import team_for
from reluctant.sketch import SERVED
from reluctant.weights import as_array

_KIND = {dtype: as_array(torch.empty(0, dtype=dtype, device="cpu")) for dtype in SERVED}


def serves(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, causal: bool = False
) -> bool:
    """Whether `attention` takes these. Gradients and dropout are the caller's business."""
    batch, heads, _, d = queries.shape
    return (
        queries.dtype in _KIND
        and queries.numel() > 0
        and keys.shape == values.shape == (batch, heads, keys.shape[2], d)
        and all(_in_rows(t, queries.dtype) for t in (queries, keys, values))
        and (mask is None or _is_mask(mask, (batch, heads, queries.shape[2], keys.shape[2])))
        and not (causal and (mask is not None or keys.shape[2] != queries.shape[2]))
    )


def _is_mask(mask: Tensor, shape: tuple[int, ...]) -> bool:
    pairs = zip(reversed(mask.shape), reversed(shape), strict=False)
    fits = 2 <= mask.dim() <= 4 and all(size in (1, wanted) for size, wanted in pairs)
    return fits and mask.is_cpu and (mask.dtype is torch.bool or mask.is_floating_point())


def _in_rows(tensor: Tensor, dtype: torch.dtype) -> bool:
    d = tensor.shape[3]
    return (
        tensor.dtype is dtype
        and tensor.is_cpu
        and not tensor.is_neg()
        and (tensor.stride(3) == 1 or d == 1)
        and all(tensor.stride(axis) % d == 0 for axis in range(3))
    )


def attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
) -> Tensor:
    """softmax(q k^T / sqrt(d_head)) v, without gradients. Gives (batch, n, heads * d_head).

    queries: (batch, heads, n, d_head); keys, values: (batch, heads, m, d_head), each row on end.
    mask: broadcastable to (batch, heads, n, m); bool, True where a query may look, or floating,
    added to the scores, -inf where it may not; one that may look nowhere gets zeros. causal,
    instead of a mask: query i sees the first i + 1 of n = m keys.

    >>> q, k, v = torch.randn(3, 2, 4, 5, 8).unbind()
    >>> y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    >>> torch.allclose(attention(q, k, v, causal=True), y.transpose(1, 2).flatten(2), atol=1e-6)
    True
    """
    (batch, heads, n, d), m = queries.shape, keys.shape[2]
    out = queries.new_empty(batch, n, heads * d)
    three = (queries, keys, values)
    added = None if mask is None else _added(mask).expand(batch, heads, n, m)
    sizes = np.array(
        [
            *(batch, heads, n, m, d),
            *(tensor.stride(axis) // d for tensor in three for axis in range(3)),
            *((0, 0, 0, 0) if added is None else added.stride()),
            *(int(causal), int(added is not None)),
            *(_rows(tensor) for tensor in three),
        ],
        np.int64,
    )
    at = (*(t.data_ptr() for t in three), out.data_ptr() if added is None else added.data_ptr())
    team = team_for(4 * batch * heads * n * m * d)
    kernels.run(_KIND[queries.dtype], *at, sizes, as_array(out).reshape(-1, d), team)
    return out


def _added(mask: Tensor) -> Tensor:
    """What a mask adds to scores, float32."""
    if mask.dtype is not torch.bool:
        return mask.float()
    return torch.zeros(mask.shape, dtype=torch.float32, device="cpu").masked_fill_(
        ~mask, -torch.inf
    )


def _rows(tensor: Tensor) -> int:
    """How many rows there are from its first to its last, whatever lies between."""
    steps = zip(tensor.shape[:3], tensor.stride()[:3], strict=True)
    return 1 + sum(max(size - 1, 0) * step for size, step in steps) // tensor.shape[3]
