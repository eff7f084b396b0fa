"""A plain linear map of few rows: every weight is read once for all of them.

The bits of a row depend neither on the other rows nor on the number of threads.
"""

from functools import cache

import torch
from torch import Tensor

from reluctant.kernels import linear as kernels
from reluctant.kernels.team import ALONE, team_for
from reluctant.sketch import SERVED
from reluctant.weights import as_array

MAX_ROWS = kernels.MAX_ROWS
# Weights below which torch's own call is as fast, for one row and for more.
LEAST_FOR_ONE, LEAST = 2**17, 2**16
_KIND = {dtype: as_array(torch.empty(0, dtype=dtype, device="cpu")) for dtype in SERVED}


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `few_rows` is faster than torch's own product, by the numbers of rows and weights."""
    rows = x.numel() // max(x.shape[-1], 1)
    return rows <= MAX_ROWS and weight.numel() >= (LEAST_FOR_ONE if rows == 1 else LEAST)


def serves(x: Tensor, weight: Tensor, bias: Tensor | None, *, most: int | None = MAX_ROWS) -> bool:
    """Whether `few_rows` takes these: rows of one served dtype on the CPU, as they lie; at most so
    many, and one at least.

    Gradients are the caller's business.
    """
    dtype = x.dtype
    return (
        dtype in _KIND
        and weight.dtype is dtype
        and x.numel() > 0
        and (most is None or x.numel() <= most * x.shape[-1])
        and weight.dim() == 2
        and x.shape[-1] == weight.shape[1]
        and x.is_contiguous()
        and weight.is_contiguous()
        and x.is_cpu
        and weight.is_cpu
        and not x.is_neg()
        and (bias is None or _is_plain(bias, dtype, weight.shape[0]))
    )


def _is_plain(bias: Tensor, dtype: torch.dtype, n: int) -> bool:
    # Kernels check no bounds: a bias that torch would broadcast is torch's.
    return bias.dtype is dtype and bias.shape == (n,) and bias.is_cpu and bias.is_contiguous()


def few_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias, without gradients. x: (..., d), few rows, or it is slower than torch;
    weight: (n, d); bias: (n,) or None. They have to be as `serves` wants them; but for x of float32
    the weight may be a 16-bit copy, with the bits that its numbers give as float32.

    >>> weight, x = torch.eye(3, 4), torch.arange(8.0).reshape(2, 4)
    >>> few_rows(x, weight, None)
    tensor([[0., 1., 2.],
            [4., 5., 6.]])
    """
    n, d = weight.shape
    y = x.new_empty((*x.shape[:-1], n))
    rows, biases = x.numel() // d, 0 if bias is None else n
    at = (x.data_ptr(), weight.data_ptr(), 0 if bias is None else bias.data_ptr(), y.data_ptr())
    team = team_for(weight.nbytes * (1 + rows // 4)) if n else ALONE
    kernels.run_at(_KIND[x.dtype], _KIND[weight.dtype], *at, rows, n, d, biases, team)
    return y


@cache
def compiled(dtype: torch.dtype, *, narrow: bool = False) -> None:
    """Have the kernel of this dtype compiled now, where somebody says what goes on. narrow: those
    for 16-bit copies of float32 weights, too."""
    reads = SERVED if narrow and dtype is torch.float32 else (dtype,)
    for read in reads:
        few_rows(torch.zeros(1, 1, dtype=dtype), torch.zeros(1, 1, dtype=read), None)


def some_outputs(
    x: Tensor, row: int, weight: Tensor, bias: Tensor | None, outputs: Tensor
) -> Tensor:
    """Of row `row` of x only these outputs, with the bits that `few_rows` gives them.

    x: (m, d); outputs: (k,) int64, each below n. Gives (k,).
    """
    y = x.new_empty((1, len(outputs)))
    held = _KIND[x.dtype] if bias is None else as_array(bias)
    rows = outputs.numpy()
    kernels.run_some(
        as_array(x), row, as_array(weight), rows, held, as_array(y), team_for(y.nbytes * x.shape[1])
    )
    return y[0]
