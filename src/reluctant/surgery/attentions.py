"""Puts our kernel under the attention of `reluctant.transformer`, where bits must not depend on the
batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.attention import attention, serves
from reluctant.surgery.linears import MapSeat
from reluctant.surgery.modes import is_watched


class AttentionSeat(MapSeat):
    """What a served `MultiHeadAttention` keeps. calls: by who computed them."""

    def __init__(self) -> None:
        super().__init__(batch_invariant=True)
        self.calls = {"kernel": 0, "torch": 0}

    def call(self, module: nn.Module, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """`mix` of queries, keys, values and a mask; plain: the original class's."""
        if len(args) == 5 and not torch.compiler.is_compiling() and self._mixes(module, args[:4]):
            queries, keys, values, mask, causal = args
            if serves(queries, keys, values, mask, causal=causal):
                self.calls["kernel"] += 1
                return attention(queries, keys, values, mask, causal=causal)
        self.calls["torch"] += 1
        return plain(module, *args, **kwargs)

    def _mixes(self, module: nn.Module, tensors: tuple[Any, ...]) -> bool:
        """Whether this call may be another's than torch's."""
        given = [each for each in tensors if each is not None]
        return (
            all(type(each) is Tensor and each.layout is torch.strided for each in given)
            and all(each.dim() == 4 for each in given[:3])
            and not (torch.is_grad_enabled() and any(each.requires_grad for each in given))
            and not (module.training and module.dropout > 0)  # type: ignore[operator]
            and not torch.is_autocast_enabled("cpu")
            and not is_watched()
        )
