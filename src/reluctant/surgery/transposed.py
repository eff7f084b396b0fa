"""A `Conv1D` of transformers (GPT-2), seen as an nn.Linear.

Its weight is stored as (in, out), so a Linear's weight is its transposed view. As the second map
that is the engine's own layout, value rows; as the first one the weight is laid out anew.
"""

from typing import Any

from torch import Tensor, nn


class Transposed(nn.Linear):
    """Reads the live weights of `conv` at each access; holds none itself, and is never called.

    conv: weight (in_features, out_features), bias (out_features,) or none.
    """

    def __init__(self, conv: nn.Module) -> None:
        # Not nn.Module's: this is a view, without parameters of its own.
        self.__dict__.update(conv=conv, training=False, _buffers={}, _modules={}, stride=None)

    conv: Any
    stride: tuple[int, ...] | None

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

    def lay_out(self) -> None:
        """As a first map: store its keys as contiguous rows. Values, shape, identity stay."""
        weight = self.conv.weight
        if not weight.t().is_contiguous():
            self.__dict__["stride"] = weight.stride()
            weight.data = weight.data.t().contiguous().t()

    def put_back(self) -> None:
        """Undo `lay_out`."""
        weight, stride = self.conv.weight, self.stride
        if stride is not None and weight.stride() != stride:
            weight.data = weight.data.new_empty_strided(weight.shape, stride).copy_(weight.data)
        self.__dict__["stride"] = None

    def __repr__(self) -> str:
        return f"Transposed({self.conv!r})"
