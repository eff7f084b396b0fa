"""Watches one call of a layer's forward: is it dropout, at most, that stands beside the activation?

What `fc1` returns has to arrive at the activation as the very same object, and what that returns at
`fc2`: dropouts that do not act, and conversions to the dtype that is there, hand on the object they
get. Nothing else may use either of the two, and no result may be one of them.
"""

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from reluctant.surgery.site import Site, raw
from reluctant.surgery.standin import stand_in
from reluctant.surgery.still import still

# Return the tensor that they get where there is nothing to do; checked.
_HANDS_ON = {"dropout", "alpha_dropout", "to", "type_as", "contiguous", "float", "half", "bfloat16"}


class _Follow(TorchFunctionMode):
    """Sees which functions of torch get a marked tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.marked: dict[int, Tensor] = {}
        self.strange: list[str] = []
        self.paused = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.paused and self.holds((args, kwargs)):
            made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            name = getattr(func, "__name__", str(func))
            if made and not (name in _HANDS_ON and all(id(t) in self.marked for t in made)):
                self.strange.append(name)
        return result

    def holds(self, tree: Any) -> bool:
        return bool(self.marked) and any(id(leaf) in self.marked for leaf in tree_leaves(tree))

    def unseen(self, function: Callable[[Tensor], Any], x: Tensor) -> Any:
        self.paused = True
        try:
            return function(x)
        finally:
            self.paused = False


class Watch:
    """A `Call` in which the original parts do the work.

    wrong: what the forward does that it must not, if anything. finished: it came to the layer, and
    to its own end. elsewhere: it also uses the activation for something else, or asks for more of
    the parts than their results.
    """

    compiled = False

    def __init__(self, site: Site) -> None:
        self.site, self.follow = site, _Follow()
        self.wrong = ""
        self.finished = self.elsewhere = False
        self.switches: tuple[object, ...] = ()
        self._x: Tensor | None = None
        self._z: Tensor | None = None
        self._h: Tensor | None = None
        self._done = False

    def asked(self) -> None:
        self.elsewhere = True

    def up(self, x: Tensor) -> Tensor:
        if not self.site.takes(x):
            self.wrong = self.wrong or "the first Linear gets something unexpected"
        z: Tensor = self.follow.unseen(raw(self.site.up), x)
        self._x, self._z, self._h = x, z, None
        self._mark(z)
        return z

    def activation(self, z: Tensor) -> Tensor:
        live: Any = self.site.live
        if z is not self._z:  # the layer uses the function elsewhere, too
            self.elsewhere = True
            if self._z is not None:  # the function's stand-in could not tell the two apart
                self.wrong = self.wrong or "its forward uses its activation twice at once"
            return live(z)  # type: ignore[no-any-return]
        h: Tensor = self.follow.unseen(live, z)
        self._h = h
        self._mark(h)
        return h

    def down(self, h: Tensor) -> Tensor:
        if h is not self._h:
            self.wrong = self.wrong or "more than an activation stands between its Linear layers"
        self._z = self._h = None
        self._done = True
        return self.follow.unseen(raw(self.site.down), h)  # type: ignore[no-any-return]

    def _mark(self, tensor: Tensor) -> None:
        self.follow.marked[id(tensor)] = tensor

    def run(self, forward: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Return the forward's own result."""
        assert self.site.row is not None
        with self.follow:
            result = forward(stand_in(module, self.site.row, self), *args, **kwargs)
        if self.follow.strange:
            names = ", ".join(dict.fromkeys(self.follow.strange))
            self.wrong = f"its forward does more between its Linear layers: {names}"
        elif self.follow.holds(result):
            self.wrong = self.wrong or "its forward returns what is between its Linear layers"
        if self._z is not None:
            self.wrong = self.wrong or "its second Linear does not follow on the first"
        self.finished = self._done
        return result


def try_out(module: nn.Module, site: Site, *, training: bool) -> Watch | None:
    """Watch made-up hidden states go through the module's forward.

    training: the flag of the module and of what holds its parts; all else is in evaluation mode.
    None if the forward cannot be called with hidden states alone, or did not come to the layer.
    """
    forward = type(module).forward
    others = [*inspect.signature(forward).parameters.values()][2:]
    open_ended = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    needed = [p.name for p in others if p.default is p.empty and p.kind not in open_ended]
    generator = torch.Generator("cpu").manual_seed(0)
    x = torch.randn(1, 3, site.d_model, generator=generator, device="cpu").to(site.up.weight.dtype)
    watch = Watch(site)
    with still(module):
        for place in (module, *(part.holder for part in site.parts), *site.dropouts):
            if place is not None:
                place.training = training
        watch.switches = site.switches(module)
        with suppress(Exception):
            watch.run(forward, module, (x,), dict.fromkeys(needed))
    return watch if watch.wrong or watch.finished else None
