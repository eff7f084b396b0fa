"""How many directions a set of vectors fills."""

import torch
from torch import Tensor


def effective_rank(x: Tensor) -> float:
    """Of a matrix (rows, d): exp of the entropy of its singular values, once they sum to 1.

    From 1 to min(rows, d); 0 for a matrix of zeros. Roy and Vetterli 2007, definition 1.

    >>> round(effective_rank(torch.eye(5)), 6)
    5.0
    >>> round(effective_rank(torch.ones(5, 3)), 6)
    1.0
    """
    values = torch.linalg.svdvals(x.double())
    if not values.numel() or not values.max():
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def distance_from_rank_one(x: Tensor) -> float:
    """Of the vectors of one sentence (positions, d): |x - 1 m^T| / |x| in the Frobenius norm.

    m is their mean: 1 m^T is the nearest matrix in which all positions are the same.

    Dong et al. 2021 (arXiv 2103.03404) take the same residual in another norm. 0 for zeros.

    >>> distance_from_rank_one(torch.ones(4, 3))
    0.0
    >>> distance_from_rank_one(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
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
