"""One layer's engine: picks the way (dense, few, many), keeps the sketch true, counts."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from reluctant import dense, op
from reluctant.activations import Activation, resolve
from reluctant.errors import ReluctantError
from reluctant.kernels import few, many, screened
from reluctant.kernels.entry import run_at
from reluctant.kernels.team import POOL, threads_for
from reluctant.neurons import Neurons
from reluctant.prepared import Prepared, finite, prepare
from reluctant.sketch import sketch_bytes

WAYS = ("auto", "dense", "few", "many")

# Where the ways cross, from measurements (docs/log.md, 2026-11-21).
FEW_WEIGHTS = 3 * 2**18  # of W1: smaller ones stay in the caches, where a dense first product wins
FEW_TOKENS = 12
# Shares above which a way is slower than the next one: candidates, by tokens; active neurons.
FEW_LIMIT = (1.0, 0.6, 0.4, *[0.25] * 2, *[0.13] * 4, *[0.1] * 8)
MANY_LIMIT = 0.16
# Shares of candidates up to which many tokens are screened; beyond, a dense first product wins.
# By weights of W1 and by tokens, each "at most".
SCREEN_LIMIT = (
    (3 * 2**17, ((32, 0.12), (2**62, 0.08))),
    (2**23, ((32, 0.22), (128, 0.18), (2**62, 0.15))),
    (2**62, ((2**62, 0.09),)),
)
_NEVER = 2.0  # no share is above it
_IGNORED = np.zeros(2, np.int64)  # where counts go that nobody asked for


class Census(NamedTuple):
    """Counts over all tokens of an input; divide by tokens * d_ff for shares."""

    tokens: int
    active: int
    candidates: int


class Engine:
    """Computes `down(f(up(x)))` for one layer from the live weights of its `nn.Linear`s.

    up: nn.Linear(d_model, d_ff), down: nn.Linear(d_ff, d_model), gate like up or None. way: "auto",
    or one of "dense", "few", "many" to pin it; a layer that a pinned way cannot serve takes the
    dense way.

    Serves every dtype, device and gradient; the sparse ways serve float32 on the CPU (few tokens:
    bfloat16 and gated layers, too) and activations with a `zero_below` and a kernel. Raises
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
        way: str = "auto",
    ) -> None:
        self.neurons = Neurons(up, down, gate)
        self.activation = resolve(activation)  # checks what an unregistered one claims
        self.way = way
        self.calls = {"few": 0, "many": 0, "dense": 0}
        for name, part in (("up", up), ("down", down), ("gate", gate)):
            if part is not None and not finite(part.weight):
                raise ReluctantError(
                    f"expected finite weights; {name}.weight holds a NaN or an infinity: repair "
                    f"the checkpoint, or leave this layer as it is"
                )
        self._stride = down.weight.stride()
        self._start()

    def _start(self) -> None:
        self._d_model, self._weights = self.neurons.d_model, self.neurons.keys.numel()
        self._prepared: Prepared | None = None
        self._turn = 0
        self._handle = op.enlist(self)
        self._label = op.label(self.activation)

    # Sketch and kernels' views are caches of the weights: copies and pickles make their own.
    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for cache in ("_d_model", "_weights", "_prepared", "_turn", "_handle", "_label"):
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
        """Whether the sparse ways can serve this layer as it is now."""
        return self._prepare().sparse

    @property
    def sketch_bytes(self) -> int:
        """Memory that the engine adds to the model, in bytes."""
        if not self.sparse:
            return 0
        return sketch_bytes(self.neurons.d_ff, self.neurons.d_model)

    def __call__(self, x: Tensor) -> Tensor:
        """x: (..., d_model), also a nested tensor. Gives (..., d_model)."""
        if not torch.compiler.is_compiling() and not self._needs_grad(x):
            return self.forward(x)
        y: Tensor = op.feed_forward(x, *self.neurons.tensors(), self._handle, self._label)
        return y

    def _needs_grad(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and (
            x.requires_grad
            or any(t is not None and t.requires_grad for t in self.neurons.tensors())
        )

    def forward(self, x: Tensor) -> Tensor:
        """`__call__` without autograd."""
        if x.is_nested:
            return _on_values(self.forward, x)
        d_model = self._d_model
        if x.dim() == 0 or x.shape[-1] != d_model or not x.is_floating_point():
            raise ReluctantError(
                f"expected x of shape (..., {d_model}) in a floating dtype; got "
                f"{tuple(x.shape)} {x.dtype}"
            )
        tokens = x.numel() // d_model
        way, ready = self._choose(x, tokens)
        if ready is None:
            y = self._dense(x)
        else:
            rows = x if x.is_contiguous() and not x.is_neg() else x.resolve_neg().contiguous()
            y = torch.empty_like(rows)
            sparsely = self._run_few if way == "few" else self._run_screened
            if not sparsely(rows, y, tokens, ready):
                way, y = self._run_many(rows, y, ready)
        self.calls[way] += 1
        return y

    def _choose(self, x: Tensor, tokens: int) -> tuple[str, Prepared | None]:
        """The way, from this call alone, and what a sparse way reads."""
        way = self._way
        if way == "dense" or tokens == 0 or not x.is_cpu or torch.is_autocast_enabled("cpu"):
            return "dense", None
        if way == "auto":
            way = "few" if tokens <= FEW_TOKENS and self._weights >= FEW_WEIGHTS else "many"
        screen = way == "many" and screen_limit(tokens, self._weights) > 0
        ready = self._prepare(with_sketch=way == "few" or screen)
        served = way == "few" or ready.many or ready.screened
        if not ready.sparse or x.dtype is not ready.dtype or not served:
            return "dense", None
        return way, ready

    def _dense(self, x: Tensor) -> Tensor:
        w1, b1, w2, b2, wg, bg = self.neurons.tensors()
        gate = None if wg is None else (wg, bg)
        return dense.feed_forward(x, (w1, b1), (w2, b2), self.activation, gate)

    def _run_few(self, rows: Tensor, out: Tensor, tokens: int, ready: Prepared) -> bool:
        """False where the next way should serve: too many candidates, or weights with a NaN.

        rows, out: contiguous, tokens * d_model numbers of the weights' dtype.
        """
        most = few.MAX_TOKENS
        limit = _NEVER if self._way == "few" else FEW_LIMIT[min(tokens, most)]
        if tokens <= most:
            return self._few(rows, out, 0, tokens, ready, limit, _IGNORED)
        return all(
            self._few(rows, out, first, min(most, tokens - first), ready, limit, _IGNORED)
            for first in range(0, tokens, most)
        )

    def _few(
        self,
        rows: Tensor,
        out: Tensor,
        first: int,
        tokens: int,
        ready: Prepared,
        limit: float,
        totals: Any,
    ) -> bool:
        """One call of the kernel; a second if it finds that the weights have left the sketch."""
        skipped = first * self._d_model * rows.itemsize
        for _ in range(2):
            if ready.sketch is None:
                return False
            self._turn += 1
            status = run_at(
                *(*ready.few, rows.data_ptr() + skipped, out.data_ptr() + skipped, tokens, limit),
                *(False, self._turn, totals, threads_for(self._weights * (1 + tokens // 4))),
            )
            if status != few.STALE:
                return bool(status == few.DONE)
            self.refresh()
            ready = self._prepare(with_sketch=True)
        return False

    def _run_screened(self, rows: Tensor, out: Tensor, tokens: int, ready: Prepared) -> bool:
        """Both products sparsely. False where the next way should serve, as in `_run_few`."""
        limit = screen_limit(tokens, self._weights)
        if self._way == "many" and not ready.many:
            limit = _NEVER  # pinned, and no other kernel serves it
        for _ in range(2 if limit > 0 else 0):
            if not ready.screened:
                return False
            self._turn += 1
            x, y = (t.numpy().reshape(tokens, self._d_model) for t in (rows, out))
            threads = threads_for(self._weights * (1 + tokens // 4))
            status = screened.run(
                *(x, *ready.screened, limit, False, self._turn, y, _IGNORED, threads, POOL)
            )
            if status != few.STALE:
                return bool(status == few.DONE)
            self.refresh()
            ready = self._prepare(with_sketch=True)
        return False

    def _run_many(self, rows: Tensor, out: Tensor, ready: Prepared) -> tuple[str, Tensor]:
        """The first product densely; the second sparsely or, for a crowded call, densely."""
        if not ready.many:
            return "dense", self._dense(rows)
        w1, b1, w2, b2, _, _ = self.neurons.tensors()
        z = dense.linear(rows, w1, b1)
        limit = _NEVER if self._way == "many" else MANY_LIMIT
        z_rows, out_rows = (
            z.numpy().reshape(-1, z.shape[-1]),
            out.numpy().reshape(-1, self._d_model),
        )
        threads = threads_for(z.nbytes)
        found = many.combine(z_rows, *ready.many, limit, out_rows, threads, POOL)
        if found >= 0:
            return "many", out
        return "dense", dense.linear(self.activation(z), w2, b2)

    def _prepare(self, *, with_sketch: bool = False) -> Prepared:
        self._prepared = prepare(
            self.neurons, self.activation, self._prepared, with_sketch=with_sketch
        )
        return self._prepared

    def refresh(self) -> None:
        """Forget what was derived from the weights: for those who write behind torch's back."""
        self._prepared = None

    def detach(self) -> None:
        """Give W2 the memory layout it had before the engine."""
        self.refresh()
        weight = self.neurons.down.weight
        if weight.stride() != self._stride:
            old = torch.empty_strided(
                weight.shape, self._stride, dtype=weight.dtype, device=weight.device
            )
            weight.data = old.copy_(weight.data)

    def census(self, x: Tensor) -> Census:
        """How many neurons are active, and how many the sketch could not rule out, for x.

        x: (..., d_model). A layer that no sketch serves has d_ff candidates a token; its active
        neurons are those whose f(z) is not zero.
        """
        with torch.no_grad():
            rows = x.detach().reshape(-1, self.neurons.d_model).contiguous()
            tokens = rows.shape[0]
            totals, ready = np.zeros(2, np.int64), self._prepare(with_sketch=True)
            served = tokens > 0 and ready.sparse and rows.dtype is ready.dtype
            out = torch.empty_like(rows)
            for first in range(0, tokens, few.MAX_TOKENS) if served else ():
                count = min(few.MAX_TOKENS, tokens - first)
                served = served and self._few(rows, out, first, count, ready, _NEVER, totals)
            active, candidates = (int(n) for n in totals)
            if not served:
                fires = self.neurons.gate or self.neurons.up
                h = self.activation(nn.functional.linear(rows, fires.weight, fires.bias))
                active, candidates = int((h != 0).sum()), h.numel()
        return Census(tokens, active, candidates)


def screen_limit(tokens: int, weights: int) -> float:
    """The share of candidates up to which so many tokens are screened; 0: not at all.

    weights: of W1.

    >>> screen_limit(512, 512 * 2048)
    0.15
    """
    row = next(limits for most, limits in SCREEN_LIMIT if weights <= most)
    return next(limit for most, limit in row if tokens <= most)


def _on_values(function: Any, x: Tensor) -> Tensor:
    """Applies a position-wise function to the positions that a nested tensor holds."""
    if x.layout == torch.jagged:
        offsets: Tensor = x.offsets()  # type: ignore[attr-defined]
        return torch.nested.nested_tensor_from_jagged(function(x.values()), offsets)
    parts = x.unbind()
    lengths = [len(p) for p in parts]
    return torch.nested.as_nested_tensor(list(function(torch.cat(parts)).split(lengths)))
