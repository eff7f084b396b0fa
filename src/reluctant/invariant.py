"""Results that do not depend on what else is in the batch: each row has the bits it has alone.

Linear maps are computed by the kernel for few rows, which sums every product in one order, for any
number of rows. What it does not serve is done by torch, and so are the functions between: one row
at a time, since torch's bits may go by a row's place among others.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from reluctant import linear as few
from reluctant.activations import Activation
from reluctant.dense import Part
from reluctant.narrow import Narrow


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function of each row of x, (..., d), as (1, d) -> (1, k) by itself. Gives (..., k).

    >>> by_rows(torch.cumsum, torch.ones(2, 2, 3))
    Traceback (most recent call last):
        ...
    TypeError: cumsum() missing 1 required positional arguments: "dim"
    >>> by_rows(lambda row: row.cumsum(1), torch.ones(2, 2, 3))[1]
    tensor([[1., 2., 3.],
            [1., 2., 3.]])
    """
    rows = x.reshape(-1, x.shape[-1])
    # Each in memory of its own: a library's bits may go by where in a vector a row begins.
    done = torch.cat([function(row[None].clone()) for row in rows]) if len(rows) else function(rows)
    return done.view(*x.shape[:-1], done.shape[-1])


def serves(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the kernel computes x weight^T + bias, for any number of rows."""
    return not torch.is_autocast_enabled("cpu") and few.serves(x, weight, bias, most=None)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, narrow: Narrow | None = None) -> Tensor:
    """x weight^T + bias without gradients. x: (..., d), any number of rows."""
    x = x.resolve_neg().contiguous()
    if serves(x, weight, bias):
        read = weight.data if narrow is None else narrow.read()
        return few.few_rows(x, read, None if bias is None else bias.data)
    return by_rows(lambda row: F.linear(row, weight, bias), x)


def feed_forward(
    x: Tensor,
    up: Part,
    down: Part,
    activation: Activation,
    gate: Part | None = None,
    norm: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """`dense.feed_forward`, each row by itself.

    >>> from reluctant.activations import resolve
    >>> up, down = torch.nn.Linear(4, 16), torch.nn.Linear(16, 4)
    >>> parts = (up.weight, up.bias), (down.weight, down.bias), resolve("gelu")
    >>> x = torch.randn(40, 4)
    >>> with torch.no_grad():
    ...     torch.equal(feed_forward(x, *parts)[7:8], feed_forward(x[7:8], *parts))
    True
    """
    h = by_rows(activation, linear(x, *(gate or up)))
    if gate is not None:
        h = h * linear(x, *up)
    return linear(h if norm is None else by_rows(norm, h), *down)
