"""The step for autograd: saved tensors, gradients, gradients of gradients."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reluctant.training import step
from reluctant.training.call import Call, Weights, plain


def feed_forward(x: Tensor, weights: Weights, call: Call) -> tuple[Tensor, Tensor]:
    """The layer, and the sum of |h| over all tokens and neurons if it is wanted: with gradients.

    x: (..., d_model). The seed of dropout is drawn from torch's generator. Raises what torch does.

    >>> from reluctant.activations import resolve
    >>> up, down = torch.nn.Linear(8, 32), torch.nn.Linear(32, 8)
    >>> call = Call(resolve("relu"), limit=0.4)
    >>> weights = Weights(up.weight, up.bias, down.weight, down.bias)
    >>> y, _ = feed_forward(torch.ones(5, 8), weights, call)
    >>> y.sum().backward()
    >>> up.weight.grad.shape
    torch.Size([32, 8])
    """
    seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_()) if call.drop > 0 else 0
    rows = x.reshape(-1, x.shape[-1])
    y, size = _FeedForward.apply(rows, *weights, call, seed)  # type: ignore[no-untyped-call]
    return y.view(x.shape), size


class _FeedForward(torch.autograd.Function):
    """x (tokens, d_model), six weights, the call, the seed -> y, the sum of |h|."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        *tensors, ctx.call, seed = arguments
        given = (x, *tensors)
        weights = Weights(*tensors).each(lambda t: t.data)
        y, size, kept = step.forward(x.data, weights, ctx.call, seed)
        # What torch's own layers keep, nobody may write to. The rest, biases among it, is needed
        # only if the forward pass has to be repeated.
        of_x, of_w1, of_b1, _, _, of_wg, of_bg = ctx.needs_input_grad[:7]
        through = of_x or of_w1 or of_b1 or of_wg or of_bg
        saves = (of_w1 or of_wg, of_x, False, through, False, of_x, False)
        ctx.loose = [None if saved else _Loose.of(t) for t, saved in zip(given, saves, strict=True)]
        ctx.save_for_backward(
            *(t if saved else None for t, saved in zip(given, saves, strict=True)), *kept
        )
        return y, size

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dsize: Tensor) -> Any:
        saved, wanted = ctx.saved_tensors, ctx.needs_input_grad[:7]
        kept = list(saved[7:])
        both = zip(saved, ctx.loose, strict=False)
        x, *others = (t if loose is None else loose.tensor for t, loose in both)
        weights = Weights(*others)
        if torch.is_grad_enabled() or is_batched(dy):  # somebody differentiates this once more
            _check(ctx.loose)
            return *_differentiable(x, weights, kept, ctx.call, (dy, dsize), wanted), None, None
        x, weights = x.data, weights.each(lambda t: t.data)
        if not step.are_exact(kept, weights, dy):
            _check(ctx.loose)
            kept = step.dense_instead(step.plainly(x), weights, kept, ctx.call)
        return *step.backward(x, weights, kept, ctx.call, dy, dsize, wanted), None, None


@dataclass(frozen=True)
class _Loose:
    """A tensor that is not saved, and how often it had been written to."""

    tensor: Tensor | None
    version: int | None

    @classmethod
    def of(cls, t: Tensor | None) -> "_Loose":
        return cls(t, None if t is None or t.is_inference() else t._version)


def _check(loose: list[_Loose | None]) -> None:
    for each in loose:
        if each is not None and each.version != _Loose.of(each.tensor).version:
            raise RuntimeError(
                "an input or a weight of a feed-forward layer was written to after the forward "
                "pass, which this backward pass has to repeat: write to it after the backward pass"
            )


def is_batched(t: Tensor) -> bool:
    """Whether it stands for many gradients (`is_grads_batched`, `vectorize=True`)."""
    return torch._C._functorch.is_batchedtensor(t) or torch._C._functorch.is_legacy_batchedtensor(t)


def _differentiable(
    x: Tensor, weights: Weights, kept: list[Tensor], call: Call, out: Any, wanted: Any
) -> list[Any]:
    """The gradients in torch's operations, which repeat the forward pass.

    out: those of y and of the sum of |h|.
    """

    def drop(h: Tensor) -> Tensor:
        return h * (step.stays(h, kept).to(h.dtype) * call.scale)

    with torch.enable_grad():
        # Aliases: one Parameter may stand in two places.
        x, weights = x.view_as(x), weights.each(lambda t: t.view_as(t))
        results = plain(x, weights, call, drop)
        some = [t for t, w in zip((x, *weights), wanted, strict=True) if t is not None and w]
        reached = [(r, g) for r, g in zip(results, out, strict=True) if r.requires_grad]
        roots, grads = zip(*reached, strict=True)
        found = iter(torch.autograd.grad(roots, some, grads, create_graph=True))
    return [next(found) if w else None for w in wanted]
