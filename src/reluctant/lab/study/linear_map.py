"""How well one linear map does what a layer does."""

from typing import NamedTuple

import torch
from torch import Tensor


class LinearMap(NamedTuple):
    """x -> x weight + bias; weight: (d_in, d_out), bias: (d_out,), float64."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """x: (..., d_in), any floating dtype; gives (..., d_out) of the same."""
        return (x.double() @ self.weight + self.bias).to(x.dtype)


def best_linear(x: Tensor, y: Tensor) -> LinearMap:
    """The linear map with a bias of least squared error from x (tokens, d_in) to y (tokens, d_out).

    In float64, the shortest solution where there are several.

    >>> x = torch.randn(50, 4)
    >>> found = best_linear(x, x @ torch.ones(4, 2) + 3)
    >>> torch.allclose(found.bias, torch.full((2,), 3.0).double(), atol=1e-4)
    True
    """
    ones = x.new_ones(len(x), 1)
    both = torch.cat([x, ones], 1).double()
    solution = torch.linalg.lstsq(both, y.double(), driver="gelsd").solution
    return LinearMap(solution[:-1], solution[-1])


def constant(y: Tensor) -> LinearMap:
    """Gives y (d,) whatever comes in, (..., d).

    >>> constant(torch.tensor([1.0, 2.0]))(torch.ones(3, 2))[2]
    tensor([1., 2.])
    """
    return LinearMap(y.new_zeros(len(y), len(y)).double(), y.double())


def r_squared(predicted: Tensor, y: Tensor) -> float:
    """1 - sum |y - predicted|^2 / sum |y - mean y|^2 over tokens and dimensions; 1 is perfect.

    Negative for what is worse than the mean. Both (tokens, d).

    >>> y = torch.tensor([[1.0], [3.0]])
    >>> r_squared(y, y), r_squared(torch.full((2, 1), 2.0), y)
    (1.0, 0.0)
    """
    y = y.double()
    wrong = float((y - predicted.double()).square().sum())
    total = float((y - y.mean(0)).square().sum())
    return 1 - wrong / total if total else float(wrong == 0)
