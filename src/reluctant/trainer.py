"""What one layer's training goes by, call by call: which way, which dtype, what is counted."""

import logging
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from reluctant import training, ways
from reluctant.activations import Activation, trained_by_kernel
from reluctant.weights import Neurons

log = logging.getLogger("reluctant")
_MOMENTUM = 0.1  # of the running density, as of a batch norm's statistics


class Penalty(Protocol):
    """Who wants the sum of |h| of every call."""

    def add(self, trainer: "Trainer", size: Tensor, pairs: int) -> None:
        """Take one call's: `pairs` of token and neuron."""


class Trainer:
    """Calls with gradients of `down(f(up(x)))`, or of a gated layer.

    density: the running share of active neurons in training; None before the first counted call.
    penalty: who is told the size of the hidden vectors. calls: the engine's, counted here, too.
    """

    def __init__(self, neurons: Neurons, activation: Activation, calls: dict[str, int]) -> None:
        self.neurons, self.activation, self.calls = neurons, activation, calls
        self.density: float | None = None
        self.penalty: Penalty | None = None
        self._said = set[str]()

    @property
    def why_torch(self) -> str:
        """Why torch trains the layer, whatever the call; "" if the kernels do."""
        dtype = self.neurons.keys.dtype
        if self.neurons.norm is not None:
            return "a norm stands before its last map"
        if self.activation.zero_below is None:
            return f"{self.activation.name} has no range where it is exactly zero"
        if not trained_by_kernel(self.activation):
            return f"no kernel knows the slope of {self.activation.name}"
        if dtype not in training.DTYPES:
            return f"{str(dtype).removeprefix('torch.')} weights"
        return ""

    def __call__(self, x: Tensor, drop: float, *, sparse: bool = True) -> Tensor:
        """The layer with gradients. x: (..., d_model). sparse: unless the dense way is pinned."""
        weights = training.Weights(*self.neurons.tensors())
        if torch.is_autocast_enabled("cpu") and not self.why_torch:
            kind = torch.get_autocast_dtype("cpu")
            cast = weights.each(lambda t: t.to(kind))
            with torch.autocast("cpu", enabled=False):
                return self._step(x.to(kind), cast, drop, sparse=sparse)
        return self._step(x, weights, drop, sparse=sparse)

    # torch.compiler.disable would load torch._dynamo at once: 1.5 s of every start.
    @torch._disable_dynamo  # type: ignore[attr-defined]
    def broken(self, x: Tensor) -> Tensor:
        """`__call__` outside of compiled code, for what lets others know of it."""
        return self(x, 0.0)

    def _step(self, x: Tensor, weights: training.Weights, drop: float, *, sparse: bool) -> Tensor:
        tokens, d_ff = x.numel() // max(x.shape[-1], 1), len(weights.w1)
        name = str(x.dtype).removeprefix("torch.")
        limits = ways.training_limits(name, weights.w1.numel(), tokens) if sparse else (0.0, 0.0)
        why = self.why_torch or training.unserved(x, weights)
        # Neither an evaluation with dropout nor a checkpoint's second time is a step.
        first = torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1
        sized, seen = self.penalty is not None, partial(self.count, running=first)
        call = training.Call(self.activation, *limits, float(drop), sized, seen)
        if why or call.limit == 0:
            if why:
                self.say(f"trained by torch: {why}")
            self.calls["dense"] += 1
            y, size = self._plain(x, weights, call)
        else:
            y, size = training.feed_forward(x, weights, call)
        if self.penalty is not None and first and size.requires_grad:
            self.penalty.add(self, size, tokens * d_ff)
        return y

    def _plain(
        self, x: Tensor, weights: training.Weights, call: training.Call
    ) -> tuple[Tensor, Tensor]:
        norm = self.neurons.norm
        return training.plain(x, weights, call, lambda h: F.dropout(h, call.drop), norm)

    def count(self, pairs: int, active: int, sparse: bool, *, running: bool = True) -> None:
        """Learn of one call what `training.Call.seen` is told. running: for the density, too."""
        if running and pairs:
            share = active / pairs
            before = share if self.density is None else self.density
            self.density = before + _MOMENTUM * (share - before)
        self.calls["training" if sparse else "dense"] += 1

    def say(self, what: str) -> None:
        """Log it, once a layer."""
        if what not in self._said:
            self._said.add(what)
            w1 = self.neurons.keys
            log.info("feed-forward layer %d/%d: %s", w1.shape[1], w1.shape[0], what)
