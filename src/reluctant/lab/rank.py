"""How many directions a set of vectors fills."""

import torch
from torch import Tensor


def effective_rank(x: Tensor) -> float:
    """exp of the entropy of a matrix' singular values, once they sum to 1. x: (rows, d).

    From 1 to min(rows, d); 0 for a matrix of zeros, NaN for one that is not finite. Roy and
    Vetterli 2007, "The effective rank: a measure of effective dimensionality", definition 1.

    >>> round(effective_rank(torch.eye(5)), 6), effective_rank(torch.zeros(2, 2))
    (5.0, 0.0)
    """
    if not x.isfinite().all():
        return float("nan")
    values = torch.linalg.svdvals(x.double())
    if not values.numel() or not values.max():
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())
