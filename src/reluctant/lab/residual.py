"""Finds the residual stream of a feed-forward layer, in any model: what its output is added to.

Nothing is known of the model's code. The norms tell: the one that reads what comes after the layer
reads residual + y. Post-norm (Vaswani et al. 2017) that residual is the layer's own input x;
pre-norm (Xiong et al. 2020) it is what the norm before, which gave x, has read. Which of the two it
is, if any, is decided by the numbers, in each call and in each of its elements: the one whose sum
with y is nearer to what the norm read, and not further from it than rounding may be.
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
EITHER = (
    "the next norm reads what may be the layer's input plus its output, and as well what the norm "
    "before read plus it: both are equally near, in the few digits that there are"
)


class Residual(NamedTuple):
    """What a layer's output was added to.

    rows: (rows, d_model), or None; why: the reason why there are none, else "". shape: of the sum
    that the norm read, without d_model; None if it read no such sum.
    """

    rows: Tensor | None
    why: str = ""
    shape: tuple[int, ...] | None = None


class _Open(NamedTuple):
    """A layer that was called. before: what the norm that gave x has read."""

    x: Tensor
    y: Tensor
    before: Tensor | None
    found: Callable[[Residual], object]


class Residuals:
    """Listens to a model's norms until it is closed.

    widths: the d_model of the layers; apart: modules that are parts of a layer.

    >>> norm, found = nn.LayerNorm(4), []
    >>> with Residuals(norm, {4}) as residuals:
    ...     x, y = torch.ones(2, 4), torch.arange(8.0).view(2, 4)
    ...     residuals.called(x, y, found.append)
    ...     _ = norm(x + y)
    >>> [each.rows is x for each in found]
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

    def called(self, x: Tensor, y: Tensor, found: Callable[[Residual], object]) -> None:
        """A layer made y of x, both (rows, d_model). `found` is told once, soon after."""
        self._close(NO_NORM)
        before = None
        if self._last is not None:
            read, gave = (_rows(each, x) for each in self._last)
            if gave is not None and _same(gave, x):
                before = read
        self._open = _Open(x, y, before, found)

    def end(self) -> None:
        """The model's forward is over."""
        self._close(NO_NORM)
        self._last = None

    def forget(self) -> None:
        """The model's forward has failed: nobody is told anything."""
        self._open = self._last = None

    def _norm(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        read = args[0] if args else next(iter(kwargs.values()), None)
        if not isinstance(read, Tensor) or not isinstance(result, Tensor):
            return
        if self._open is not None:
            self._decide(self._open, read)
        self._last = read.clone(), result  # the model may go on to write into what was read

    @torch.no_grad()
    def _decide(self, layer: _Open, read: Tensor) -> None:
        total = _rows(read, layer.y)
        if total is None:
            return self._close(OTHER)
        both = [each for each in (layer.x, layer.before) if each is not None]
        apart = [_apart(total, each, layer.y) for each in both]
        least = min(apart)
        if not least <= 1:
            return self._close(OTHER)
        nearest = [each for each, off in zip(both, apart, strict=True) if off == least]
        self._open = None
        shape = tuple(read.shape[:-1])
        one = _same(nearest[0], nearest[-1])
        layer.found(Residual(nearest[0], "", shape) if one else Residual(None, EITHER, shape))
        return None

    def _close(self, why: str) -> None:
        layer, self._open = self._open, None
        if layer is not None:
            layer.found(Residual(None, why))


def _apart(total: Tensor, residual: Tensor, y: Tensor) -> float:
    """How far they are from total = residual + y, in the element where it is most.

    1 is what it may be after two roundings, one of the sum and one of what is added: eps (|r| +
    |y|), with the eps of the shortest dtype.
    """
    added = (residual + y).to(total.dtype)
    if torch.equal(added, total):
        return 0.0
    same = (added == total) | (added.isnan() & total.isnan())
    eps = max(torch.finfo(each.dtype).eps for each in (total, residual, y))
    off = (total.double() - added.double()).abs()
    room = eps * (residual.double().abs() + y.double().abs())
    return float((off / room).masked_fill(same, 0.0).nan_to_num(nan=torch.inf).amax())


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether they are equal, and NaN at the same places."""
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


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
