"""What a Transformer becomes when its feed-forward layers are changed: modules put in their place.

Every function changes a model in place; new weights are drawn as the Transformer draws its own.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from reluctant.feedforward import FeedForward
from reluctant.lab.study.shapes import feed_forward
from reluctant.transformer.layers import AddNorm
from reluctant.transformer.model import Transformer

M = TypeVar("M", bound=nn.Module)


class Pass(nn.Module):
    """In place of an Add & Norm: x alone; the sub-layer is not asked."""

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return x


class Bare(nn.Module):
    """An Add & Norm without the residual: norm and sub-layer stay, x is not added."""

    def __init__(self, around: AddNorm) -> None:
        super().__init__()
        self.norm, self.dropout, self.norm_first = around.norm, around.dropout, around.norm_first

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.norm_first:
            out: Tensor = self.dropout(sublayer(self.norm(x)))
        else:
            out = self.norm(self.dropout(sublayer(x)))
        return out


class Hourglass(nn.Module):
    """First down, then up, several times over: each block adds to what the ones before gave.

    As in arXiv 2602.06471: a stack of blocks narrower than d_model, with residual paths. Its
    output is what all of them add, so that it stands where a feed-forward layer does.

    >>> Hourglass(8, 4, blocks=3)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, d_model: int, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FeedForward(d_model, width) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., d_model), the same shape."""
        update = torch.zeros_like(x)
        for block in self.blocks:
            update = update + block(x + update)
        return update


def layers_of(model: Transformer) -> dict[str, Any]:
    """The encoder's and the decoder's layers under their names in the model."""
    stacks = {"encoder": model.encoder.layers, "decoder": model.decoder.layers}
    return {f"{name}.layers.{i}": each for name, s in stacks.items() for i, each in enumerate(s)}


def around(layer: Any) -> str:
    """The name of the Add & Norm around a layer's feed-forward layer."""
    return "add_norm_3" if hasattr(layer, "add_norm_3") else "add_norm_2"


def without_feed_forward(model: Transformer) -> None:
    """Attention alone, with its residual paths."""
    for layer in layers_of(model).values():
        drop(layer)


def drop(layer: Any) -> None:
    """One layer without its feed-forward layer, and without the norm in front of it."""
    layer.feed_forward = nn.Identity()
    setattr(layer, around(layer), Pass())


def without_residual(model: Transformer) -> None:
    """No residual path around the feed-forward layers."""
    for layer in layers_of(model).values():
        setattr(layer, around(layer), Bare(getattr(layer, around(layer))))


def without_residuals(model: Transformer) -> None:
    """No residual path at all."""
    for layer in layers_of(model).values():
        for name in ("add_norm_1", "add_norm_2", "add_norm_3"):
            module = getattr(layer, name, None)
            if isinstance(module, AddNorm):
                setattr(layer, name, Bare(module))


def hourglass(model: Transformer) -> None:
    """Stacks of blocks half as wide as d_model, with as many parameters as the layers had."""
    for layer in layers_of(model).values():
        d_model, d_ff = layer.feed_forward.d_model, layer.feed_forward.d_ff
        width = max(1, d_model // 2)
        blocks = max(1, round(feed_forward(d_model, d_ff) / feed_forward(d_model, width)))
        layer.feed_forward = drawn(Hourglass(d_model, width, blocks))


def tapered(shares: Sequence[float]) -> Callable[[Transformer], None]:
    """Layer i of each stack gets d_ff times the i-th share."""

    def alter(model: Transformer) -> None:
        for stack in (model.encoder.layers, model.decoder.layers):
            for layer, share in zip(stack, shares, strict=True):
                old: Any = layer.feed_forward
                layer.feed_forward = drawn(
                    FeedForward(old.d_model, max(1, round(share * old.d_ff)))
                )

    return alter


def shared(model: Transformer) -> None:
    """One layer for all, with as many parameters as all of them had together."""
    _share(model, list(layers_of(model).values()))


def shared_in_encoder(model: Transformer) -> None:
    """One layer for the encoder and none in the decoder, with as many parameters as all had:
    "One Wide FFN" of Pires et al. 2023.
    """
    _share(model, list(model.encoder.layers))
    for layer in model.decoder.layers:
        drop(layer)


def _share(model: Transformer, by: Sequence[Any]) -> None:
    old = [layer.feed_forward for layer in layers_of(model).values()]
    total = sum(feed_forward(each.d_model, each.d_ff) for each in old)
    d_model = old[0].d_model
    one = drawn(FeedForward(d_model, round((total - d_model) / (2 * d_model + 1))))
    for layer in by:
        layer.feed_forward = one


def drawn(module: M) -> M:
    """The module with weights as `Transformer` draws them: Glorot, and biases of zero."""
    for parameter in module.parameters():
        (nn.init.xavier_uniform_ if parameter.dim() > 1 else nn.init.zeros_)(parameter)
    return module
