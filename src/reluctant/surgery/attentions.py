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
        if len(args) == 5 and not torch.compiler.is_compiling() and self._mixes(module, args[:3]):
            queries, keys, values, mask, causal = args
            seen, known = _as_bool(mask)
            if known and serves(queries, keys, values, seen):
                self.calls["kernel"] += 1
                return attention(queries, keys, values, seen, causal=causal)
        self.calls["torch"] += 1
        return plain(module, *args, **kwargs)

    def _mixes(self, module: nn.Module, three: tuple[Any, ...]) -> bool:
        """Whether this call may be another's than torch's."""
        return (
            all(type(each) is Tensor and each.dim() == 4 for each in three)
            and not (torch.is_grad_enabled() and any(each.requires_grad for each in three))
            and not (module.training and module.dropout > 0)  # type: ignore[operator]
            and not torch.is_autocast_enabled("cpu")
            and not is_watched()
        )


def _as_bool(mask: Tensor | None) -> tuple[Tensor | None, bool]:
    """A mask as the kernel takes it, and whether it is one: of what is added to scores, 0 and -inf
    alone say who is seen."""
    if mask is None or mask.dtype is torch.bool:
        return mask, True
    seen = mask == 0
    return seen, bool((seen | (mask == -torch.inf)).all())
