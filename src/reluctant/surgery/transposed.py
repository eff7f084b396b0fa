"""A `Conv1D` of transformers (GPT-2), seen as an nn.Linear.

Its weight is stored as (in, out), so a Linear's weight is its transposed view. As the second map
its value rows lie on end, and the engine reads them in place; as the first one it reads a copy.
"""

from typing import Any

from torch import Tensor, nn


class Transposed(nn.Linear):
    """Reads the live weights of `conv` at each access; holds none itself, and is never called.

    conv: weight (in_features, out_features), bias (out_features,) or none.
    """

    def __init__(self, conv: nn.Module) -> None:
        # Not nn.Module's: this is a view, without parameters of its own.
        self.__dict__.update(conv=conv, training=False, _buffers={}, _modules={})

    conv: Any

    @property
    def in_features(self) -> int:  # type: ignore[override]
        return int(self.conv.nx)

    @property
    def out_features(self) -> int:  # type: ignore[override]
        return int(self.conv.nf)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self.conv._parameters["weight"].t()  # type: ignore[no-any-return]

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        return self.conv._parameters["bias"]  # type: ignore[no-any-return]

    @property
    def _parameters(self) -> dict[str, Tensor | None]:  # type: ignore[override]
        return {"weight": self.weight, "bias": self.bias}

    def __repr__(self) -> str:
        return f"Transposed({self.conv!r})"
