"""What can be read off vectors by a linear map: logistic regression, judged on held-out tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor

_DECAY = 1e-4
_STEPS = 60


def accuracy(x: Tensor, labels: Tensor, held_out: tuple[Tensor, Tensor]) -> float:
    """The share of held-out tokens whose class a linear probe of x tells.

    Multinomial logistic regression with a small L2 penalty on standardised features, by L-BFGS.
    x: (tokens, d); labels: (tokens,) classes from 0 on; held_out: the same of other tokens.

    >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    >>> accuracy(x, (x[:, 0] > 0).long(), (x, (x[:, 0] > 0).long())) > 0.95
    True
    """
    mean, deviation = x.mean(0), x.std(0)
    deviation = torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
    features = (x - mean) / deviation
    classes = int(torch.cat([labels, held_out[1]]).max()) + 1
    weight = torch.zeros(x.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_STEPS, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        wrong = F.cross_entropy(features @ weight + bias, labels)
        total = wrong + _DECAY * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        told = (((held_out[0] - mean) / deviation) @ weight + bias).argmax(1)
    return float((told == held_out[1]).double().mean())
