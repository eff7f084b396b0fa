"""What training lowers: the cross-entropy of the target's tokens, with smoothed labels."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reluctant.transformer.model import Transformer
from reluctant.translation.batches import Batch
from reluctant.translation.vocabulary import PAD

ROWS = 256  # tokens whose logits are there at a time: they stay in the caches


class Objective(nn.Module):
    """A model with its loss as one module, so that torch's data parallelism can wrap it.

    forward(batch): a scalar, the sum over the tokens of the batch, in nats. Padding costs nothing:
    the last linear map is computed for tokens alone.
    """

    def __init__(self, model: Transformer, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.model, self.label_smoothing = model, label_smoothing

    def forward(self, batch: Batch) -> Tensor:
        hidden = self.model.hidden(batch.target, self.model.start(batch.source))
        real = batch.labels != PAD
        return projected_loss(
            hidden[real], self.model.linear.weight, batch.labels[real], self.label_smoothing
        )


def projected_loss(x: Tensor, weight: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """F.cross_entropy(x @ weight.T, labels, reduction="sum", label_smoothing=smoothing), without
    all logits in memory at once.

    x: (tokens, d_model), weight: (vocabulary, d_model), labels: ids (tokens,). Its gradients are
    computed along with it, a block of tokens at a time: of a vocabulary of 8,000 and 4,096 tokens
    the logits alone would be 131 MB, read and written ten times. As Liger-Kernel (arXiv
    2410.10989, section 3.2) does it. It can be differentiated once.

    >>> x, weight, labels = torch.randn(5, 4), torch.randn(9, 4), torch.tensor([0, 8, 3, 3, 1])
    >>> whole = nn.functional.cross_entropy(x @ weight.T, labels, reduction="sum")
    >>> torch.allclose(projected_loss(x, weight, labels), whole)
    True
    """
    needed = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    loss: Tensor = _ProjectedLoss.apply(x, weight, labels, smoothing, needed)  # type: ignore[no-untyped-call]
    return loss


class _ProjectedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, smoothing: float, needed: bool
    ) -> Tensor:
        dx, dw = (torch.zeros_like(each) if needed else None for each in (x, weight))
        losses = []
        for start in range(0, len(x), ROWS):
            rows, wanted = x[start : start + ROWS], labels[start : start + ROWS, None]
            logits = (rows @ weight.T).to(torch.promote_types(x.dtype, torch.float32))
            total = logits.logsumexp(-1, keepdim=True)
            likelihood = total - logits.gather(1, wanted)
            flat = total - logits.mean(-1, keepdim=True)
            losses.append(((1 - smoothing) * likelihood + smoothing * flat).sum())
            if dx is not None and dw is not None:
                slope = logits.sub_(total).exp_().sub_(smoothing / len(weight))
                slope.scatter_add_(1, wanted, slope.new_full(wanted.shape, smoothing - 1))
                slope = slope.to(x.dtype)
                dx[start : start + ROWS] = slope @ weight
                dw += slope.T @ rows
        ctx.save_for_backward(dx, dw)
        return torch.stack(losses).sum() if losses else x.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        dx, dw = ctx.saved_tensors
        x_needed, w_needed = ctx.needs_input_grad[:2]
        return dx * slope if x_needed else None, dw * slope if w_needed else None, None, None, None
