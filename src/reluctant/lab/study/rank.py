"""How alike the vectors of a sentence are, and the active sets of tokens."""

import torch
from torch import Tensor


def distance_from_alike(x: Tensor) -> float:
    """Of the vectors of one sentence, x (positions, d), from all positions alike: |x - 1 m^T| / |x|
    in the Frobenius norm, where m is their mean. 0 for zeros.

    1 m^T is the nearest matrix in which all positions are the same; a matrix of rank one, but not
    the nearest of these. Dong et al. 2021 (arXiv 2103.03404) define the same residual, x less the
    nearest matrix of equal rows, and take it in the norm sqrt(|.|_1 |.|_inf).

    >>> distance_from_alike(torch.ones(4, 3))
    0.0
    >>> distance_from_alike(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    1.0
    """
    x = x.double()
    whole = float(x.norm())
    return float((x - x.mean(0)).norm()) / whole if whole else 0.0


def distinct(h: Tensor) -> float:
    """The share of tokens whose set of active neurons no token before had. h: (tokens, d_ff).

    >>> distinct(torch.tensor([[0.0, 1.0], [0.0, 3.0], [2.0, 0.0]]))
    0.6666666666666666
    """
    return len(torch.unique(h > 0, dim=0)) / len(h)
