"""Whether what was derived from a layer's weights is still true: the only file that says so.

Three witnesses. The *stamp*: where the weights lie, as what, and how often torch saw them written.
*Steps*: fused optimizers write weights without telling torch, so a step of one that holds weights
of ours counts as a change. And what kernels *remember* and compare at each call: writes through
`.data` or NumPy, or by another process that shares the memory, tell nobody.
"""

import weakref
from collections.abc import Iterable, Sequence
from functools import cache
from operator import attrgetter, is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from reluctant.kernels.watch import Watched, remember
from reluctant.weights import Map, Matrix, Neurons, as_array


class _Memory:
    """One piece of memory that weights lie in, and the stamps that were taken of it."""

    __slots__ = ("__weakref__", "stamps")

    def __init__(self) -> None:
        self.stamps: weakref.WeakSet[Stamp | Parameters] = weakref.WeakSet()


# By the memory's address, not by parameter: a step on a flat vector is one on its views.
_served: "weakref.WeakValueDictionary[int, _Memory]" = weakref.WeakValueDictionary()


def _address(tensor: Tensor) -> int:
    """Of a tensor's memory; 0 if it has none that could be named."""
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:  # sparse, or a tracer's
        return 0


def _after_step(optimizer: Optimizer, *_: Any) -> None:
    if not _served:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            memory = _served.get(_address(parameter))
            for stamp in () if memory is None else tuple(memory.stamps):
                stamp.stepped = True


@cache
def _watch_steps() -> None:
    """Once, and not before there is a layer to be served."""
    register_optimizer_step_post_hook(_after_step)


def _memory_of(weight: Tensor) -> _Memory:
    address = _address(weight)
    return _served.setdefault(address, _Memory()) if address else _Memory()


def _mark(matrix: Tensor, bias: Tensor | None) -> tuple[Any, ...]:
    """Where they lie, and as what. Not on which device: no two have an address in common. A bias is
    read afresh at every call: how often it was written does not matter.
    """
    try:
        version = matrix._version
    except RuntimeError:  # made in inference mode: nobody counts
        version = -1
    place, flat = matrix.data_ptr(), matrix.is_contiguous() or matrix.stride()
    if bias is None:
        return (place, version, matrix.dtype, matrix.shape, flat)
    even = bias.is_contiguous() or bias.stride()
    also = (bias.data_ptr(), bias.dtype, bias.shape, even)
    return (place, version, matrix.dtype, matrix.shape, flat, also)


def _marks(neurons: Neurons | Map) -> tuple[Any, ...]:
    if isinstance(neurons, Map):
        return (_mark(*neurons.tensors()),)
    w1, b1, w2, b2, wg, bg = neurons.tensors()
    marks = (_mark(w1, b1), _mark(w2, b2))
    if wg is not None:
        marks = (*marks, _mark(wg, bg))  # type: ignore[assignment]
    weight = neurons.norm_weight
    if weight is None:
        return marks
    flat = weight.is_contiguous() or weight.stride()
    return (*marks, weight.data_ptr(), weight.dtype, weight.shape, flat, neurons.eps)


class Stamp:
    """The state of a layer's or a map's weights at one moment, as far as torch knows.

    >>> from torch import nn
    >>> up, down = nn.Linear(8, 32), nn.Linear(32, 8)
    >>> stamp = Stamp(Neurons(up, down))
    >>> stamp.holds()
    True
    >>> _ = nn.init.zeros_(down.weight)
    >>> stamp.holds()
    False
    """

    __slots__ = ("__weakref__", "_marks", "_memory", "_neurons", "stepped")

    def __init__(self, neurons: Neurons | Map) -> None:
        _watch_steps()
        self.stepped = False  # whether an optimizer has stepped that holds some of the weights
        self._neurons = neurons
        self._memory = [_memory_of(w) for w in neurons.tensors()[::2] if w is not None]
        for memory in self._memory:
            memory.stamps.add(self)
        self._marks = _marks(neurons)

    def holds(self) -> bool:
        """Whether torch knows of no change since."""
        return not self.stepped and _marks(self._neurons) == self._marks


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


class Parameters:
    """All parameters of some modules, as they are now: in few looks, for who asks at every step.

    Raises RuntimeError for one that was made in inference mode, of whose changes torch does not
    tell.

    >>> linear = nn.Linear(8, 32)
    >>> parameters = Parameters([linear])
    >>> linear.bias = None
    >>> parameters.hold()
    False
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        _watch_steps()
        self.stepped = False
        places = [(m._parameters, name) for m in modules for name in m._parameters]
        self._where, self._names = [where for where, _ in places], [name for _, name in places]
        self._all = [where[name] for where, name in places]
        self._tensors = [each for each in self._all if each is not None]
        self._memory = [_memory_of(each) for each in self._tensors]
        for memory in self._memory:
            memory.stamps.add(self)
        self._forms = [*map(_form, self._tensors)]
        self._versions, self._places = self._looked_at()

    def _looked_at(self) -> tuple[list[Any], list[int]]:
        return [*map(_version, self._tensors)], [*map(_place, self._tensors)]

    def hold(self) -> bool:
        """Whether torch knows of no change since, as far as that happens while a model is in use:
        other Parameters, other memory, other numbers."""
        there = map(dict.get, self._where, self._names)
        return (
            not self.stepped
            and all(map(is_, there, self._all))
            and self._looked_at() == (self._versions, self._places)
        )

    def hold_in_all(self) -> bool:
        """Besides, whether they have the same shapes, order and dtypes."""
        return self.hold() and [*map(_form, self._tensors)] == self._forms


_version, _place = attrgetter("_version"), Tensor.data_ptr


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype
