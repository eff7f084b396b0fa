"""Finds the residual stream of a feed-forward layer, in any model: what its output is added to.

Nothing is known of the model's code. The norms tell: the one that reads what comes after the layer
reads residual + y. Post-norm (Vaswani et al. 2017) that residual is the layer's own input x;
pre-norm (Xiong et al. 2020) it is what the norm before, which gave x, has read. Which of the two it
is, if any, is decided by the numbers, in each call.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

NO_NORM = "no norm reads what comes after the layer"
OTHER = (
    "the next norm reads neither the layer's input plus its output, nor what the norm before read "
    "plus it: attention beside the layer, a scale, or another norm stands between"
)
_SLACK = 64  # units of rounding


class _Open(NamedTuple):
    """A layer that was called. found: to be told the residual's rows, or why there are none."""

    x: Tensor
    y: Tensor
    before: Tensor | None
    found: Callable[[Tensor | None, str], object]


class Residuals:
    """Listens to a model's norms until it is closed.

    widths: the d_model of the layers; apart: modules that are parts of a layer.

    >>> norm, found = nn.LayerNorm(4), []
    >>> with Residuals(norm, {4}) as residuals:
    ...     x, y = torch.ones(2, 4), torch.arange(8.0).view(2, 4)
    ...     residuals.called(x, y, lambda residual, why: found.append(residual is x))
    ...     _ = norm(x + y)
    >>> found
    [True]
    """

    def __init__(
        self, model: nn.Module, widths: Collection[int], apart: Collection[nn.Module] = ()
    ) -> None:
        self._last: tuple[Tensor, Tensor] | None = None  # what a norm read, and what it gave
        self._open: _Open | None = None
        self._handles = [
            module.register_forward_hook(self._norm, with_kwargs=True)
            for module in model.modules()
            if module not in apart and _is_norm(module, widths)
        ]

    def __enter__(self) -> "Residuals":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        for handle in self._handles:
            handle.remove()

    def called(self, x: Tensor, y: Tensor, found: Callable[[Tensor | None, str], object]) -> None:
        """A layer made y of x, both (rows, d_model). `found` is told once, soon after."""
        self._close(NO_NORM)
        before = None
        if self._last is not None:
            read, gave = (_rows(each, x) for each in self._last)
            if gave is not None and torch.equal(gave, x):
                before = read
        self._open = _Open(x, y, before, found)

    def end(self) -> None:
        """The model's forward is over."""
        self._close(NO_NORM)
        self._last = None

    def _norm(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        read = args[0] if args else next(iter(kwargs.values()), None)
        if not isinstance(read, Tensor) or not isinstance(result, Tensor):
            return
        if self._open is not None:
            self._decide(self._open, read)
        self._last = read, result

    def _decide(self, layer: _Open, read: Tensor) -> None:
        total = _rows(read, layer.y)
        if total is not None:
            slack = _SLACK * torch.finfo(total.dtype).eps * float(total.abs().max() + 1e-30)
            slack += _SLACK * torch.finfo(total.dtype).eps * float(layer.y.abs().max())
            for residual in (layer.x, layer.before):
                if residual is not None and _near(total - layer.y, residual, slack):
                    self._open = None
                    layer.found(residual, "")
                    return
        self._close(OTHER)

    def _close(self, why: str) -> None:
        layer, self._open = self._open, None
        if layer is not None:
            layer.found(None, why)


def _near(a: Tensor, b: Tensor, slack: float) -> bool:
    return bool(((a - b).abs() <= slack).all())


def _rows(tensor: Tensor, like: Tensor) -> Tensor | None:
    """As rows, if it has as many numbers, and rows as long."""
    fits = tensor.shape[-1:] == like.shape[-1:] and tensor.numel() == like.numel()
    return tensor.reshape(like.shape) if fits else None


def _is_norm(module: nn.Module, widths: Collection[int]) -> bool:
    """Whether it has the form of a LayerNorm or RMSNorm: no parts, a weight as long as a token."""
    if module._modules:
        return False
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return tuple(module.normalized_shape) in {(width,) for width in widths}
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() == 1 and len(weight) in widths
