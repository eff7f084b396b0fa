"""Puts the product for few rows under a model's other linear maps, its output projection included.

As for feed-forward layers the module's class is changed, and nothing else. What a map keeps is no
proof: the kernel reads the weights as they are at each call.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from reluctant import invariant
from reluctant.linear import LEAST, few_rows, pays, serves
from reluctant.narrow import Narrow
from reluctant.projection import Projection
from reluctant.sketch import SERVED
from reluctant.surgery.modes import is_watched

LEAST_VOCABULARY = 2**12


class MapSeat:
    """What a served `nn.Linear` keeps in its `__dict__`. calls: by who computed them. narrow:
    whether a float32 weight of 16-bit numbers is read as such. batch_invariant: whether a row's
    bits must not depend on the others. reader: a weak reference to who reads all maps of a model at
    once (`transformer.maps`), and has to forget with them."""

    def __init__(self, *, narrow: bool = False, batch_invariant: bool = False) -> None:
        self.calls = {"few rows": 0, "torch": 0}
        self.narrow, self.batch_invariant = narrow, batch_invariant
        self._narrow: Narrow | None = None
        self.reader: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {
            "_narrow": None,
            "reader": None,
        }  # a copy of the module has weights of its own

    def narrow_of(self, module: nn.Linear) -> Narrow | None:
        """What reads the module's weight in 16 bits; made when first needed."""
        if self.narrow and (self._narrow is None or not self._narrow.is_of(module)):
            self._narrow = Narrow(module)  # a shallow copy of the module has this seat, too
        return self._narrow

    def call(self, module: nn.Module, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The map's result; plain: the original class's forward."""
        if torch.compiler.is_compiling():
            return plain(module, *args, **kwargs)
        given = (*args, *(kwargs[name] for name in kwargs if name == "input"))
        x = given[0] if len(given) == len(args) + len(kwargs) == 1 else None
        if type(x) is Tensor and self._may(module, x):
            weight, bias = module._parameters["weight"], module._parameters["bias"]
            if self.batch_invariant:
                x = x.resolve_neg().contiguous()
                able = invariant.serves(x, weight, bias)  # type: ignore[arg-type]
            else:
                able = pays(x, weight) and serves(x, weight, bias)  # type: ignore[arg-type]
            if able:
                self.calls["few rows"] += 1
                narrow = self.narrow_of(module)  # type: ignore[arg-type]
                return few_rows(x, weight if narrow is None else narrow.read(), bias)  # type: ignore[arg-type]
            if self.batch_invariant:
                self.calls["torch"] += 1
                return invariant.by_rows(partial(plain, module), x)
        self.calls["torch"] += 1
        return plain(module, *args, **kwargs)

    def _may(self, module: nn.Module, x: Tensor) -> bool:
        """Whether this call may be another's than torch's."""
        weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
        return (
            type(weight) is nn.Parameter  # not quantised in place, in a functional_call ...
            and x.layout is torch.strided
            and not x.is_nested
            and x.dim() > 0
            and not (torch.is_grad_enabled() and _wants_gradients(x, weight, bias))
            and not is_watched()
        )

    @property
    def memory_bytes(self) -> int:
        """What is kept besides the weights, as far as it was made."""
        return 0 if self._narrow is None else self._narrow.memory_bytes

    def forget(self) -> None:
        """Forget what was derived from the weights."""
        reader = None if self.reader is None else self.reader()
        if reader is not None:
            reader.forget()
        if self._narrow is not None:
            self._narrow.forget()


def _wants_gradients(*tensors: Tensor | None) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


@dataclass
class Capture:
    """One decoding loop's: in place of the logits, which may not be needed, it takes what they are
    computed from.

    pretends: whether nothing is computed. x: of the last call, (m, d_model); y: what came of it;
    calls: since `x` was last taken.
    """

    module: nn.Module
    pretends: bool = False
    x: Tensor | None = None
    y: Tensor | None = None
    calls: int = 0


_thread = threading.local()  # capture: the one of this thread's decoding loop, if there is one


@dataclass
class Decoding:
    """What `reluctant.generate`, or our Transformer's `greedy`, did with an output projection.

    rows: how many of its rows were read exactly, one number for each decision; all: how many times
    all logits of a sequence were computed. beams: calls of beam search, which takes all logits of
    all beams from one reading. reasons: why calls were computed as without us.
    """

    rows: list[int] = field(default_factory=list)
    all: int = 0
    beams: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        if not (self.rows or self.all or self.beams or self.reasons):
            return "ready for reluctant.generate"
        text = f"{len(self.rows)} tokens decided"
        if self.rows:
            text += f", rows read: median {median(self.rows):.0f}, most {max(self.rows)}"
        if self.all:
            text += f"; all logits {self.all} times"
        if self.beams:
            text += f"; {self.beams} calls of beam search"
        for reason, times in self.reasons.items():
            text += f"; {times} calls as without us: {reason}"
        return text


class HeadSeat(MapSeat):
    """What a served output projection keeps. finish: how the model's forward goes on after it, as
    far as it was seen, and in which state of the model (`generation.finish`)."""

    def __init__(self, *, narrow: bool = False, batch_invariant: bool = False) -> None:
        super().__init__(narrow=narrow, batch_invariant=batch_invariant)
        self.projection: Projection | None = None
        self.decoding = Decoding()
        self.finish: tuple[Any, Any] = (None, None)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"projection": None, "finish": (None, None)}

    @property
    def memory_bytes(self) -> int:
        sketch = 0 if self.projection is None else self.projection.memory_bytes
        return super().memory_bytes + sketch

    def projection_of(self, module: nn.Linear) -> Projection:
        """Its bounds and logits; made when first needed."""
        if self.projection is None or not self.projection.map.is_of(module):
            self.projection = Projection(module, self.narrow_of(module))
        return self.projection

    def call(self, module: nn.Module, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Its logits; while a decoding loop captures them, numbers of their shape."""
        now: Capture | None = getattr(_thread, "capture", None)
        if now is None or now.module is not module or not args:
            return super().call(module, plain, args, kwargs)
        x, now.calls = args[0], now.calls + 1
        weight, bias = module._parameters["weight"], module._parameters["bias"]
        # Not what kernels read, of which nothing is known: torch has it, errors included.
        if x.dim() != 3 or not serves(x[:1, -1].contiguous(), weight, bias):  # type: ignore[arg-type]
            now.calls += 1
            return super().call(module, plain, args, kwargs)
        now.x = x[:, -1]
        if not now.pretends:
            y = super().call(module, plain, args, kwargs)
            now.y = y[:, -1]
            return y
        n: int = module.out_features  # type: ignore[assignment]
        return x.new_zeros(()).expand(*x.shape[:-1], n)

    def forget(self) -> None:
        super().forget()
        if self.projection is not None:
            self.projection.forget()


@contextmanager
def captured(module: nn.Module) -> Iterator[Capture]:
    """In this thread the projection `module` hands over what it is called with."""
    before = getattr(_thread, "capture", None)
    _thread.capture = Capture(module)
    try:
        yield _thread.capture
    finally:
        _thread.capture = before


def is_map(module: nn.Module, least: int = LEAST) -> bool:
    """Whether it is a plain linear map of so many weights, as far as can be seen."""
    if type(module) is not nn.Linear or "forward" in module.__dict__:
        return False
    weight = module._parameters.get("weight")
    return (
        type(weight) is nn.Parameter
        and weight.dtype in SERVED
        and weight.device.type == "cpu"
        and weight.is_contiguous()
        and weight.numel() >= least
    )


def head_of(model: nn.Module) -> nn.Module | None:
    """The model's output projection, as transformers names it; our Transformer does, too."""
    ask = getattr(model, "get_output_embeddings", None)
    try:
        head = ask() if callable(ask) else None
    except Exception:  # models that have none may raise anything
        return None
    return head if isinstance(head, nn.Linear) and head.out_features >= LEAST_VOCABULARY else None
