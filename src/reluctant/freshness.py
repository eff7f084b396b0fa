"""Whether what was derived from a layer's weights is still true: the only file that says so.

Three witnesses. The *stamp*: where the weights lie, as what, and how often torch saw them written.
*Steps*: fused optimizers write weights without telling torch, so the steps of those that hold
weights of ours are counted. And what kernels *remember* and compare at each call: writes through
`.data` or NumPy, or by another process that shares the memory, tell nobody.
"""

import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from reluctant.kernels.watch import Watched, remember
from reluctant.weights import Matrix, Neurons, as_array


class _Steps:
    """How many optimizer steps one piece of memory has seen."""

    __slots__ = ("__weakref__", "taken")

    def __init__(self) -> None:
        self.taken = 0


# By the address of the memory, not by parameter: a step on a flat vector is one on its views.
_steps: "weakref.WeakValueDictionary[int, _Steps]" = weakref.WeakValueDictionary()


def _address(tensor: Tensor) -> int:
    """Of a tensor's memory; 0 if it has none that could be named."""
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:  # sparse, or a tracer's
        return 0


def _after_step(optimizer: Optimizer, *_: Any) -> None:
    if not _steps:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            steps = _steps.get(_address(parameter))
            if steps is not None:
                steps.taken += 1


@cache
def _count_steps() -> None:
    """Once, and not before there is a layer to be served."""
    register_optimizer_step_post_hook(_after_step)


def _steps_of(weight: Tensor) -> _Steps:
    address = _address(weight)
    return _steps.setdefault(address, _Steps()) if address else _Steps()


def _place(tensor: Tensor | None) -> tuple[Any, ...] | None:
    """Where a tensor lies, and as what."""
    if tensor is None:
        return None
    return (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device)


def _version(tensor: Tensor | None) -> int:
    """How often torch saw it written."""
    try:
        return 0 if tensor is None else tensor._version
    except RuntimeError:  # made in inference mode: nobody counts
        return -1


def _marks(neurons: Neurons) -> tuple[Any, ...]:
    """Biases and the norm's weight are read afresh at every call: their version does not matter."""
    w1, b1, w2, b2, wg, bg = neurons.tensors()
    marks: tuple[Any, ...]
    marks = (_place(w1), _version(w1), _place(b1), _place(w2), _version(w2), _place(b2))
    if wg is not None:
        marks = (*marks, _place(wg), _version(wg), _place(bg))
    if neurons.norm is not None:
        marks = (*marks, _place(neurons.norm_weight), neurons.eps)
    return marks


class Stamp:
    """The state of a layer's weights at one moment, as far as torch knows.

    >>> from torch import nn
    >>> up, down = nn.Linear(8, 32), nn.Linear(32, 8)
    >>> stamp = Stamp(Neurons(up, down))
    >>> stamp.holds()
    True
    >>> _ = nn.init.zeros_(down.weight)
    >>> stamp.holds()
    False
    """

    __slots__ = ("_marks", "_neurons", "_steps", "_taken")

    def __init__(self, neurons: Neurons) -> None:
        _count_steps()
        self._neurons = neurons
        matrices = (w for w in neurons.tensors()[::2] if w is not None)
        self._steps = tuple(_steps_of(w) for w in matrices)
        self._taken = self._now()
        self._marks = _marks(neurons)

    def _now(self) -> tuple[int, ...]:
        return tuple([steps.taken for steps in self._steps])

    def holds(self) -> bool:
        """Whether torch knows of no change since."""
        return self._now() == self._taken and _marks(self._neurons) == self._marks


def remembered(matrices: Sequence[Matrix | None]) -> Watched:
    """What kernels compare at each call with the live memory of a layer's matrices.

    matrices: the one whose product goes through the activation, a gated layer's keys, the values;
    None: not to be watched.
    """
    some = next(matrix for matrix in matrices if matrix is not None)
    d_ff, d_model = some.rows.shape
    longest = max(d_ff, d_model)
    kind = as_array(some.stored).dtype
    live = [
        np.empty((0, d_model), kind) if matrix is None else as_array(matrix.stored)
        for matrix in matrices
    ]
    copied = np.array([matrix is not None and matrix.copied for matrix in matrices], np.int64)
    corner, first = np.zeros((3, longest), kind), np.zeros((3, d_ff), kind)
    sums = np.zeros((3, longest), np.uint64)
    for k, stored in enumerate(live):
        remember(stored, copied[k], corner[k], first[k], sums[k])
    gates, factors, values = live
    return Watched(gates, factors, values, copied, corner, first, sums)


def finite(weight: Tensor) -> bool:
    """Whether all weights are (none to be seen on the meta device)."""
    if weight.device.type == "meta" or weight.numel() == 0:
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(weight.detach()))).all())
