"""One layer's engine: picks the way (dense, few, many), keeps the sketch true, counts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from reluctant import dense, invariant, op, op_training, training, ways
from reluctant.activations import Activation, resolve
from reluctant.errors import ReluctantError
from reluctant.freshness import finite
from reluctant.kernels import few, many, screened
from reluctant.kernels.entry import run_at
from reluctant.kernels.team import team_for
from reluctant.kernels.watch import any_changed
from reluctant.narrow import Narrow
from reluctant.nested import on_values
from reluctant.prepared import Derived, Prepared
from reluctant.trainer import Trainer
from reluctant.ways import NEVER_ABOVE, Limits
from reluctant.weights import Neurons, as_array

WAYS = ("auto", "dense", "few", "many")

# The limits of pinned ways; "many" goes by the table's, as far as there is a choice.
_PINNED = {
    "dense": Limits(0, 0, 0),
    "few": Limits(NEVER_ABOVE, 0, NEVER_ABOVE),
}
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_NOT_NARROW = (None, None, None)
_IGNORED = np.zeros(2, np.int64)  # where counts go that nobody asked for


class Census(NamedTuple):
    """Counts over all tokens of an input; divide by tokens * d_ff for shares."""

    tokens: int
    active: int
    candidates: int


class Engine:
    """Computes `down(f(up(x)))`, or gated `down(f(gate(x)) * up(x))`, from the live weights.

    up: nn.Linear(d_model, d_ff), down: nn.Linear(d_ff, d_model), gate like up or None; norm: a
    module that normalises what comes to down by its root mean square, or None. way: "auto", or one
    of "dense", "few", "many" to pin it; a layer that a pinned way cannot serve takes the
    dense way. narrow: read float32 weights that are 16-bit numbers from 16-bit copies.
    batch_invariant: a row's bits do not depend on the others, without gradients: it goes the way
    for few tokens however many are active, or the dense way by itself.

    Serves every dtype, device and gradient; the sparse ways serve float32 on the CPU (few tokens:
    bfloat16 and float16, too) and activations with a `zero_below` and a kernel. Raises
    ReluctantError for parts that do not fit together and for weights that hold a NaN or an
    infinity, with nothing changed.

    >>> _ = torch.manual_seed(0)
    >>> up, down = nn.Linear(64, 256), nn.Linear(256, 64)
    >>> from reluctant.activations import resolve
    >>> engine = Engine(up, down, resolve("relu"))
    >>> x = torch.randn(3, 64)
    >>> torch.allclose(engine(x), down(torch.relu(up(x))), atol=1e-6)
    True
    """

    def __init__(
        self,
        up: nn.Linear,
        down: nn.Linear,
        activation: Activation,
        *,
        gate: nn.Linear | None = None,
        norm: nn.Module | None = None,
        way: str = "auto",
        narrow: bool = False,
        batch_invariant: bool = False,
    ) -> None:
        self.neurons = Neurons(up, down, gate, norm)
        self.narrow, self.batch_invariant = narrow, batch_invariant
        self.activation = resolve(activation)  # checks what an unregistered one claims
        self.way = way
        self.forced: Limits | None = None  # limits of its own, to measure where the ways cross
        self.calls = {"few": 0, "many": 0, "dense": 0, "training": 0}
        for name, part in (("up", up), ("down", down), ("gate", gate)):
            if part is not None and not finite(part.weight):
                raise ReluctantError(
                    f"expected finite weights; {name}.weight holds a NaN or an infinity: repair "
                    f"the checkpoint, or leave this layer as it is"
                )
        self._start()

    def _start(self) -> None:
        self.trainer = Trainer(self.neurons, self.activation, self.calls)
        self._d_model, self._weights = self.neurons.d_model, self.neurons.keys.numel()
        self._derived = Derived(self.neurons, self.activation, narrow=self.narrow)
        maps = (self.neurons.up, self.neurons.down, self.neurons.gate) if self.narrow else ()
        self._narrow = tuple(Narrow(each) for each in maps if each is not None)
        self._turn = 0
        self._handle = op.enlist(self)
        self._label, self._labelled = op.label(self.activation)

    # What is derived from the weights is a cache: copies and pickles make their own.
    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        made = ("_d_model", "_weights", "_derived", "_narrow", "_turn", "_handle", "_label")
        for cache in (*made, "_labelled", "trainer"):
            del state[cache]
        state["calls"] = dict(self.calls)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    @property
    def way(self) -> str:
        """ "auto", or the way that every call takes: "dense", "few" or "many"."""
        return self._way

    @way.setter
    def way(self, way: str) -> None:
        if way not in WAYS:
            raise ReluctantError(f"expected way to be one of {', '.join(WAYS)}; got {way!r}")
        self._way = way

    @property
    def sparse(self) -> bool:
        """Whether the sparse ways can serve this layer as it is now, as far as is known without
        reading its weights."""
        return self._derived.sparse()

    @property
    def memory_bytes(self) -> int:
        """Memory that the engine adds to the model once it has computed sparsely: the sketch, and
        a copy of W2 unless its rows lie on end; or 16-bit copies, as far as they were made."""
        return self._derived.bytes() + sum(narrow.memory_bytes for narrow in self._narrow)

    def __call__(self, x: Tensor, drop: float = 0.0) -> Tensor:
        """x: (..., d_model), also a nested tensor. Gives (..., d_model).

        drop: the probability of dropping an element before the second product. By one seed it drops
        the same ones with gradients and without.
        """
        if torch.compiler.is_compiling():
            return self._compiled(x)
        if not drop and not self._needs_grad(x):
            return self.forward(x)
        self._check(x)
        self._derived.drop_old()
        return self.trainer(x, drop, sparse=self._way != "dense")

    def _compiled(self, x: Tensor) -> Tensor:
        """`__call__` as compilers trace it."""
        tensors, trainer = training.Weights(*self.neurons.tensors()), self.trainer
        if self.neurons.norm is not None:  # no operator has one
            return dense.plain(x, *self._parts())
        if not self._needs_grad(x):
            y: Tensor = op.feed_forward(x, *tensors, self._handle, self._label)
            return y
        if self._way == "dense" or trainer.why_torch or training.unserved(x, tensors):
            return dense.plain(x, *self._parts())
        if trainer.penalty is not None:
            return trainer.broken(x)
        rows = x.reshape(-1, x.shape[-1])
        trained: tuple[Tensor, ...] = op_training.train(rows, *tensors, self._handle, self._label)
        return trained[0].view(x.shape)

    def _needs_grad(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and (
            x.requires_grad
            or any(
                t is not None and t.requires_grad
                for t in (*self.neurons.tensors(), self.neurons.norm_weight)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """`__call__` without autograd."""
        if x.is_nested:
            return on_values(self.forward, x)
        self._check(x)
        tokens = x.numel() // max(self._d_model, 1)
        if self.batch_invariant:
            return self._each_by_itself(x, tokens)
        limits = self._limits(x, tokens)
        ready = self._ready(x, limits)
        if ready is None:
            way, y = "dense", self._dense(x)
        else:
            rows = x if x.is_contiguous() and not x.is_neg() else x.resolve_neg().contiguous()
            y = torch.empty_like(rows)
            if limits.few and self._run_few(rows, y, tokens, ready, limits.few):
                way = "few"
            # Bytes leave no fewer candidates than 16 bits do: no use after few tokens' limit.
            elif limits.screen > limits.few and self._run_screened(
                rows, y, tokens, ready, limits.screen
            ):
                way = "many"
            else:
                way, y = self._run_many(rows, y, ready, limits.many)
        self.calls[way] += 1
        return y

    def _each_by_itself(self, x: Tensor, tokens: int) -> Tensor:
        """`forward` with every row's bits its own."""
        # By what one token would do: the number of tokens must not matter.
        sparse = tokens > 0 and self._limits(x, 1).few > 0
        ready = self._ready(x, _PINNED["few" if sparse else "dense"])
        if ready is not None:
            rows = x.resolve_neg().contiguous()
            y = torch.empty_like(rows)
            if self._run_few(rows, y, tokens, ready, NEVER_ABOVE):
                self.calls["few"] += 1
                return y
            if tokens > 1:  # one of them has to be computed densely, and only that one
                return invariant.by_rows(lambda row: self._each_by_itself(row, 1), rows)
        self.calls["dense"] += 1
        return invariant.feed_forward(x, *self._parts())

    def _check(self, x: Tensor) -> None:
        if x.is_nested:
            return
        if x.dim() == 0 or x.shape[-1] != self._d_model or not x.is_floating_point():
            raise ReluctantError(
                f"expected x of shape (..., {self._d_model}) in a floating dtype; got "
                f"{tuple(x.shape)} {x.dtype}"
            )

    def first_few(self, x: Tensor) -> tuple[Prepared, float] | None:
        """What the kernel for few tokens reads, and the share of candidates above which it gives
        up, if a call without gradients of so many rows, (m, d_model), tries it first; else None.

        True as long as the weights are: who keeps it has to ask `keeps` at each call.
        """
        if self.batch_invariant or not 0 < len(x) <= few.MAX_TOKENS:
            return None
        limits = self._limits(x, len(x))
        ready = self._ready(x, limits) if limits.few else None
        return None if ready is None or ready.sketch is None else (ready, limits.few)

    def keeps(self, ready: Prepared) -> bool:
        """Whether no other has taken its place."""
        return self._derived.keeps(ready)

    def _limits(self, x: Tensor, tokens: int) -> Limits:
        """Which ways may be tried: from this call's shape alone."""
        if tokens == 0 or not x.is_cpu or torch.is_autocast_enabled("cpu"):
            return _PINNED["dense"]
        if self.forced is not None:
            return self.forced
        if self._way in _PINNED:
            return _PINNED[self._way]
        limits = ways.limits(_NAMES.get(x.dtype, "float32"), self._weights, tokens)
        if self._way == "many":
            screen = limits.screen if self.neurons.gate is None else NEVER_ABOVE
            return Limits(0, screen, NEVER_ABOVE)
        return limits

    def _ready(self, x: Tensor, limits: Limits) -> Prepared | None:
        """What the sparse ways read; None where only the dense one serves."""
        if not any(limits):
            self._derived.drop_old()
            return None
        ready = self._derived.get(with_sketch=limits.few > 0 or limits.screen > 0)
        return ready if ready.sparse and x.dtype is ready.dtype else None

    def _dense(self, x: Tensor) -> Tensor:
        return dense.feed_forward(x, *self._parts())

    def _parts(self) -> tuple[Any, ...]:
        """The layer as the functions of `dense` take it."""
        w1, b1, w2, b2, wg, bg = self.neurons.tensors()
        up, down, gating = (*self._narrow, *_NOT_NARROW)[:3]
        gate = None if wg is None else (wg, bg, gating)
        return (w1, b1, up), (w2, b2, down), self.activation, gate, self.neurons.norm

    def _run_few(
        self,
        rows: Tensor,
        out: Tensor,
        tokens: int,
        ready: Prepared,
        limit: float,
        totals: Any = _IGNORED,
    ) -> bool:
        """False where the next way should serve: too many candidates, or weights with a NaN.

        rows, out: contiguous, tokens * d_model numbers of the weights' dtype. totals: zeros;
        becomes the numbers of active neurons and of candidates.
        """
        x_at, out_at = rows.data_ptr(), out.data_ptr()
        row, most = self._d_model * rows.itemsize, few.MAX_TOKENS
        team = team_for(self._weights * (1 + min(tokens, most) // 4))

        def kernel(now: Prepared) -> Any:
            if tokens <= most:
                return run_at(*now.few, x_at, out_at, tokens, limit, self._turn, totals, team)
            totals.fill(0)  # a second try counts anew
            for first in range(0, tokens, most):
                at, count = first * row, min(most, tokens - first)
                here = (x_at + at, out_at + at, count, limit, self._turn, totals, team)
                status = run_at(*now.few, *here)
                if status != few.DONE:
                    return status
            return few.DONE

        return self._trusting(ready, kernel)

    def _run_screened(
        self, rows: Tensor, out: Tensor, tokens: int, ready: Prepared, limit: float
    ) -> bool:
        """Both products sparsely. False where the next way should serve, as in `_run_few`."""
        if not ready.screened:
            return False
        x, y = (as_array(t).reshape(tokens, self._d_model) for t in (rows, out))
        team = team_for(self._weights * (1 + tokens // 4))

        def kernel(now: Prepared) -> Any:
            if not now.screened:
                return few.DENSE
            return screened.run(*(x, *now.screened, limit, False, self._turn, y, _IGNORED, team))

        return self._trusting(ready, kernel)

    def _trusting(self, ready: Prepared, kernel: Callable[[Prepared], int]) -> bool:
        """Whether a kernel served the call; it has a second try, with a new sketch, if it finds
        that the weights have left the one it was given."""
        for _ in range(2):
            if ready.sketch is None:  # weights with a NaN
                return False
            self._turn += 1
            status = kernel(ready)
            if status != few.STALE:
                return bool(status == few.DONE)
            self._derived.drop(ready)
            ready = self._derived.get(with_sketch=True)
        return False

    def _run_many(
        self, rows: Tensor, out: Tensor, ready: Prepared, limit: float
    ) -> tuple[str, Tensor]:
        """The first product densely; the second sparsely or, for a crowded call, densely."""
        if ready.many and limit:
            self._turn += 1
            if any_changed(*ready.watched, self._turn):
                self._derived.drop(ready)
                ready = self._derived.get(with_sketch=False)
        if not ready.many or not limit:
            return "dense", self._dense(rows)
        w1, b1, w2, b2, _, _ = self.neurons.tensors()
        z = dense.linear(rows, w1, b1)
        z_rows, out_rows = (as_array(t).reshape(-1, t.shape[-1]) for t in (z, out))
        found = many.combine(z_rows, *ready.many, limit, out_rows, team_for(z.nbytes))
        if found >= 0:
            return "many", out
        return "dense", dense.linear(self.activation(z), w2, b2)

    def refresh(self) -> None:
        """Forget what was derived from the weights: for those who write behind torch's back, and
        to have its memory back."""
        self._derived.drop()
        for narrow in self._narrow:
            narrow.forget()

    def census(self, x: Tensor) -> Census:
        """How many neurons are active, and how many the sketch could not rule out, for x.

        x: (..., d_model). A layer that no sketch serves has d_ff candidates a token; its active
        neurons are those whose f(z) is not zero.
        """
        with torch.no_grad():
            rows = x.detach().reshape(-1, self.neurons.d_model).contiguous()
            tokens = rows.shape[0]
            totals, ready = np.zeros(2, np.int64), self._derived.get(with_sketch=True)
            served = tokens > 0 and ready.sparse and rows.dtype is ready.dtype
            if served:
                out = torch.empty_like(rows)
                served = self._run_few(rows, out, tokens, ready, NEVER_ABOVE, totals)
            active, candidates = (int(n) for n in totals)
            if not served:
                fires = self.neurons.gate or self.neurons.up
                h = self.activation(nn.functional.linear(rows, fires.weight, fires.bias))
                active, candidates = int((h != 0).sum()), h.numel()
        return Census(tokens, active, candidates)
