"""What a served module keeps: its parts, its engine, and what has been checked so far."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from reluctant.engine import Engine
from reluctant.errors import ReluctantWarning
from reluctant.surgery.find import examine
from reluctant.surgery.modes import casting, is_changed, plainly
from reluctant.surgery.site import Site
from reluctant.surgery.standin import plain
from reluctant.surgery.state import KEY, State

__all__ = ["KEY", "Seat"]
MOST_TRIES = 8
_UNKNOWN: dict[str, Any] = {
    "checked": frozenset(),
    "refused": frozenset(),
    "state": None,
    "refuted": None,
    "tries": 0,
}
_UNKNOWN |= {"context": None, "noted": 0, "touched": 0}


Kind = tuple[torch.dtype, torch.dtype | None]


def kind_of(x: Any) -> Kind:
    """The dtypes of a tensor and of autocast."""
    return x.dtype, casting()


class Seat:
    """What a served module keeps in its `__dict__`.

    checked: the dtypes, of x and of autocast, in which a real call has been compared with the
        original's result; refused: those in which it differed, under autocast.
    state, refuted: the states of the module in which it has been shown to be this layer, and to be
        something else, the last of each; tries: how often that was looked into.
    fused: the module's `activation_relu_or_gelu`, which is 0 as long as it is served: torch's
        encoder layer then does not take the fused path, which never calls `_ff_block`.
    Of an inline layer, for compiled code, which cannot watch what its forward does: twin, the
    stand-in that it calls; proved, by what `inline.key_of` says, whether nothing but the activation
    stands between the products; context, the state in which that was shown. noted, touched: how
    many calls have been looked at, and how many of them used what is between.
    """

    def __init__(self, site: Site, engine: Engine, fused: int | None = None) -> None:
        self.site, self.engine, self.fused = site, engine, fused
        self.forget()
        self.twin: nn.Module | None = None
        self.context: State | None = None

    def __getstate__(self) -> dict[str, Any]:
        # what a copy became is to be seen
        return self.__dict__ | _UNKNOWN | {"proved": {}, "twin": None}

    def forget(self) -> None:
        """Forget what was proved and checked: it is done again at the next call."""
        self.checked: frozenset[Kind] = frozenset()
        self.refused: frozenset[Kind] = frozenset()
        self.state: State | None = None
        self.refuted: State | None = None
        self.tries = self.noted = self.touched = 0
        self.proved: dict[tuple[object, ...], bool] = {}

    def serves(self, module: nn.Module, x: object) -> bool:
        """Whether the engine may take this call; if not, the original has it, errors included."""
        if not (self.ready(module) and self.takes(x)):
            return False
        site = self.site  # `ready` may have proved a new one
        if (module.training and not site.trains) or kind_of(x) in self.refused:
            return False
        if not site.drops():
            return True
        if torch.compiler.is_compiling() or x.is_nested or not site.drops_only_there():  # type: ignore[attr-defined]
            return False
        # Without gradients, too: a checkpoint computes once so and once with them, by one mask.
        # Nothing can be compared with noise in it: whose code is not known has to be seen without.
        return not casting() or site.known or kind_of(x) in self.checked

    def why_not(self, module: nn.Module, x: object = None) -> str:
        """Why a call is left to the original, in words. x: its input, if that is known."""
        site = self.site
        reasons: dict[str, Callable[[], object]] = {
            "a mode or transform of torch watches or changes what is computed": is_changed,
            "autocast without gradients": (
                lambda: casting() and not (torch.is_grad_enabled() or module.training)
            ),
            "its parts were replaced, or have hooks": (
                lambda: not site.whole(module) or site.observed()
            ),
            "the input is no plain tensor of the weights' dtype on the CPU": (
                lambda: x is not None and not self.takes(x)
            ),
            "under autocast its own result is another": (
                lambda: x is not None and kind_of(x) in self.refused
            ),
            "in training mode its forward does something else": (
                lambda: module.training and not site.trains
            ),
            "a dropout acts elsewhere than around its second map": (
                lambda: site.drops() and not site.drops_only_there()
            ),
        }
        last = "what it computes has not been seen without dropout, or not proved as it is now"
        return next((text for text, holds in reasons.items() if holds()), last)

    def ready(self, module: nn.Module) -> bool:
        """Whether the engine may take calls of the module as it is now, whatever the input."""
        site, state = self.site, self.state
        if is_changed() or not site.whole(module) or site.observed():
            return False
        # Casts are for the trainer, with and without gradients: see `serves`.
        training = torch.is_grad_enabled() or module.training or site.drops()
        if casting() and (torch.compiler.is_compiling() or not training):
            return False
        if torch.compiler.is_compiling():
            return state is not None and state.dtype is site.dtype and state.holds_traced(module)
        if state is not None and state.dtype is site.dtype and state.holds(module):
            return True
        return self.prove(module)

    def prove(self, module: nn.Module) -> bool:
        """Whether the module, changed since, still computes the layer that the engine does."""
        site = self.site
        if self.refuted and self.refuted.dtype is site.dtype and self.refuted.holds(module):
            return False
        if self.tries == MOST_TRIES:  # it changes all the time: a schedule, a counter
            return False
        self.tries += 1
        state = site.state(module)
        with plainly():
            found = examine(plain(module, type(module)._unserved))  # type: ignore[attr-defined]
        if isinstance(found, Site) and found.same(site):
            self.site, self.state = found, state
            self.checked = self.refused = frozenset()
            return True
        self.refuted = state
        return False

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
