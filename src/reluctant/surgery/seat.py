"""What a served module keeps: its parts, its engine, and what has been checked so far."""

import warnings
from typing import Any

import torch
from torch import nn

from reluctant.engine import Engine
from reluctant.errors import ReluctantWarning
from reluctant.surgery.modes import is_watched
from reluctant.surgery.site import Site

KEY = "_reluctant"


class Seat:
    """What a served module keeps in its `__dict__`.

    checked: the dtype in which a real call has been compared with the original's result, if any.
    fused: the module's `activation_relu_or_gelu`, which is 0 as long as it is served: torch's
        encoder layer then does not take the fused path, which never calls `_ff_block`.
    proved: of an inline layer, by what `Site.switches` says: whether nothing but the activation
        stands between its products then.
    twin: of an inline layer, the stand-in that compiled code calls.
    """

    def __init__(self, site: Site, engine: Engine, fused: int | None = None) -> None:
        self.site, self.engine, self.fused = site, engine, fused
        self.checked: torch.dtype | None = None
        self.proved: dict[tuple[object, ...], bool] = {}
        self.twin: nn.Module | None = None

    def __getstate__(self) -> dict[str, Any]:
        # what a copy became is to be seen
        return self.__dict__ | {"checked": None, "proved": {**self.proved}, "twin": None}

    def serves(self, module: nn.Module, x: object) -> bool:
        """Whether the engine may take this call; if not, the original has it, errors included."""
        site = self.site
        return (
            self.ready(module)
            and self.takes(x)
            and (site.trains or not module.training)
            and not site.drops()
        )

    def ready(self, module: nn.Module) -> bool:
        """Whether the engine may take calls of the module as it is now, whatever the input."""
        return not is_watched() and self.site.whole(module) and not self.site.observed()

    def takes(self, x: object) -> bool:
        """Whether the engine takes this input."""
        return self.site.takes(x) and not (x.is_nested and torch.is_grad_enabled())  # type: ignore[attr-defined]

    def warn(self, module: nn.Module, *, stacklevel: int, why: str = "") -> None:
        """Say that a layer was put back."""
        site = self.site
        why = why or (
            f"it computed something else than {site.activation.name} between its two Linear layers"
        )
        warnings.warn(
            f"in the first real call of a {type(module).__name__} (d_model={site.d_model}, "
            f"d_ff={site.d_ff}) {why}: this layer was put back as it was, and is right, but not "
            "served",
            ReluctantWarning,
            stacklevel=stacklevel + 1,
        )
