"""The step for autograd: saved tensors, gradients, gradients of gradients."""

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
    >>> call = Call(resolve("relu"), 0.0, 0.4, 0.0, False, lambda pairs, active, sparse: None)
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
        *tensors, call, seed = arguments
        weights = Weights(*tensors).each(Tensor.detach)
        y, size, kept = step.forward(x.detach().contiguous(), weights, call, seed)
        ctx.call, biases = call, tensors[1::2]
        # As with torch's own layers, biases may be written to before the backward pass.
        ctx.biases = [(t, None if t is None else t._version) for t in biases]
        ctx.save_for_backward(x, *tensors[::2], *kept)
        return y, size

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dsize: Tensor) -> Any:
        x, w1, w2, wg, *kept = ctx.saved_tensors
        (b1, b2, bg), wanted = (t for t, _ in ctx.biases), ctx.needs_input_grad[:7]
        twice = torch.is_grad_enabled()  # somebody differentiates this once more
        repeats = twice or not step.are_exact(kept, dy)
        if repeats and any(t is not None and t._version != version for t, version in ctx.biases):
            raise RuntimeError(
                "a bias of a feed-forward layer was written to after the forward pass, which this "
                "backward pass has to repeat: write to it after the backward pass"
            )
        weights = Weights(w1, b1, w2, b2, wg, bg)
        if twice:
            return *_differentiable(x, weights, kept, ctx.call, (dy, dsize), wanted), None, None
        x, weights = x.detach(), weights.each(Tensor.detach)
        if repeats:
            kept = step.dense_instead(x, weights, kept, ctx.call)
        return *step.backward(x, weights, kept, ctx.call, dy, dsize, wanted), None, None


def _differentiable(
    x: Tensor, weights: Weights, kept: list[Tensor], call: Call, out: Any, wanted: Any
) -> list[Any]:
    """The gradients in torch's operations, which repeat the forward pass.

    out: those of y and of the sum of |h|.
    """

    def drop(h: Tensor) -> Tensor:
        return h * (step.stays(h, kept) * call.scale).to(h.dtype)

    with torch.enable_grad():
        results = plain(x, weights, call, drop)
        some = [t for t, w in zip((x, *weights), wanted, strict=True) if t is not None and w]
        reached = [(r, g) for r, g in zip(results, out, strict=True) if r.requires_grad]
        roots, grads = zip(*reached, strict=True)
        found = iter(torch.autograd.grad(roots, some, grads, create_graph=True))
    return [next(found) if w else None for w in wanted]
