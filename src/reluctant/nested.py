"""Nested tensors: padded batches without the padding, as torch's encoder makes them."""

from collections.abc import Callable

import torch
from torch import Tensor


def on_values(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Applies a position-wise function to the positions that a nested tensor holds."""
    if x.layout == torch.jagged:
        offsets: Tensor = x.offsets()  # type: ignore[attr-defined]
        return torch.nested.nested_tensor_from_jagged(function(x.values()), offsets)
    parts = x.unbind()
    lengths = [len(p) for p in parts]
    values = torch.split(function(torch.cat(parts)), lengths)
    return torch.nested.as_nested_tensor(list(values))
