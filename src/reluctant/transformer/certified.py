"""The most likely tokens from an output projection that `reluctant.optimize` serves: of its rows
only those are read that can be the largest.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reluctant.transformer.model import Transformer

if TYPE_CHECKING:
    from reluctant.surgery.linears import HeadSeat


class ServedHead:
    """A model's output projection, and what `optimize` keeps of it."""

    def __init__(self, model: Transformer, seat: "HeadSeat") -> None:
        self._head, self._seat = model.linear, seat

    def most_likely(self, x: Tensor, pad: int | None) -> Tensor | None:
        """Ids (rows,) of the largest logits of x (rows, d_model), with the lowest id among equals,
        `pad` left out; None if it takes all logits to tell, or they are torch's to compute."""
        # not at the top: all of `reluctant.transformer` works without engines, and without Numba
        from reluctant.generation.choose import decided, greedy, likeliest  # noqa: PLC0415

        decoding, why = self._seat.decoding, self._why_not(x)
        if why:
            self._say(why)
            return None
        if x.dtype is torch.float32:
            found = likeliest(partial(self._seat.projection_of, self._head), x, pad, self._say)
            if found is not None:
                ids, read = found
                decoding.rows += read.tolist()
                return torch.from_numpy(ids)
            decoding.all += len(x)
            return None
        scores = _Scores(x.dtype, pad)
        with torch.inference_mode(False):
            x = x.contiguous()
            x = x.clone() if x.is_inference() else x
            find = partial(self._seat.projection_of, self._head)
            ids = decided(find, x, scores, decoding, greedy, self._say)
        if ids is not None:
            return torch.tensor(ids)
        decoding.all += len(x)
        return None

    def _say(self, why: str) -> None:
        self._seat.decoding.reasons[why] += 1

    def _why_not(self, x: Tensor) -> str:
        from reluctant.linear import MAX_ROWS, serves  # noqa: PLC0415
        from reluctant.surgery.modes import is_watched  # noqa: PLC0415

        head: Any = self._head
        if len(x) > MAX_ROWS:
            return f"more than {MAX_ROWS} sequences at once"
        if type(head._parameters.get("weight")) is not torch.nn.Parameter or not serves(
            x.contiguous(), head.weight.data, head._parameters["bias"]
        ):
            return "the output projection's weight is no plain one that kernels read"
        if is_watched() or torch.is_autocast_enabled("cpu"):
            return "a mode of torch watches or casts operations"
        return ""


class _Scores:
    """Logits as the model gives them, rounded to its dtype, without padding's."""

    def __init__(self, dtype: torch.dtype, pad: int | None) -> None:
        self._dtype, self._pad = dtype, pad

    def of_bounds(self, low: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        if self._dtype is not torch.float32:
            low, up = low.to(self._dtype).float(), up.to(self._dtype).float()
        if self._pad is not None:
            low[:, self._pad] = up[:, self._pad] = -torch.inf
        return low, up

    def of_some(self, m: int, ids: Tensor, logits: Tensor, low: Tensor, up: Tensor) -> Tensor:
        return logits


def served_head(model: Transformer) -> ServedHead | None:
    """The model's output projection, if it is served and nobody else looks at what it gives."""
    head = model.linear
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    if (
        not hasattr(type(head), "_unserved")
        or type(model).decode is not Transformer.decode
        or "decode" in vars(model)
        or "forward" in vars(head)
        or any(vars(head)[each] for each in hooks)
    ):
        return None
    from reluctant.surgery.linears import HeadSeat  # noqa: PLC0415  loaded by who serves
    from reluctant.surgery.swap import map_seat_of  # noqa: PLC0415

    seat = map_seat_of(head)
    return ServedHead(model, seat) if isinstance(seat, HeadSeat) else None
