"""What the kernels read of a layer: views of its live weights, and their sketch."""

import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reluctant.activations import Activation
from reluctant.errors import ReluctantError
from reluctant.kernels.codes import NONE
from reluctant.neurons import Neurons
from reluctant.sketch import Sketch

_one_at_a_time = threading.RLock()


@dataclass(frozen=True)
class Prepared:
    """The kernels' arguments, and the weights' stamp when they were made."""

    stamp: tuple[Any, ...]
    sparse: bool  # whether the sparse ways can serve the layer; if not, the rest is empty
    rows: tuple[Any, ...] = ()  # keys, bias, values, value_bias
    many: tuple[Any, ...] = ()  # the many-token kernel's arguments between z and limit
    sketch: Sketch | None = None  # made when a few-token call first needs it
    few: tuple[Any, ...] = ()  # the few-token kernel's arguments between x and limit


def prepare(
    neurons: Neurons, activation: Activation, known: Prepared | None, *, with_sketch: bool
) -> Prepared:
    """`known` if the weights are still those, and anew if they have changed."""
    if known is not None and known.stamp == neurons.stamp():
        if not with_sketch or known.sketch is not None or not known.sparse:
            return known
    else:
        known = None
    with _one_at_a_time, torch.inference_mode(False), torch.no_grad():
        known = known or _views(neurons, activation)
        return _sketched(known, neurons, activation) if with_sketch and known.sparse else known


def _views(neurons: Neurons, activation: Activation) -> Prepared:
    w1, b1, w2, b2 = neurons.tensors()
    present = [t for t in (w1, b1, w2, b2) if t is not None]
    if not (
        activation.kernel != NONE
        and neurons.gate is None
        and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in present)
        # Views, not copies: a write to a bias is to be seen at once.
        and all(t.is_contiguous() for t in (w1, b1, b2) if t is not None)
        and finite(w2)  # skipping a zero would hide 0 * inf = NaN
    ):
        return Prepared(neurons.stamp(), sparse=False)
    neurons.lay_out()
    keys, values = neurons.keys.detach(), neurons.values.detach()
    bias = torch.zeros(neurons.d_ff) if b1 is None else b1.detach()
    value_bias = torch.zeros(neurons.d_model) if b2 is None else b2.detach()
    rows = tuple(t.numpy() for t in (keys, bias, values, value_bias))
    many = (_threshold(activation), activation.kernel, *rows[2:])
    return Prepared(neurons.stamp(), sparse=True, rows=rows, many=many)


def _sketched(views: Prepared, neurons: Neurons, activation: Activation) -> Prepared:
    try:
        sketch = Sketch.of(neurons.keys)
    except ReluctantError:  # a NaN has come into the keys: the dense way shows it
        return replace(views, sparse=False)
    arguments = (
        *(sketch.q, sketch.scale, sketch.radius, sketch.own_norm, sketch.row_sum),
        *(*views.rows, sketch.probe_at, sketch.probe, sketch.max_norm, sketch.slack),
        *(_threshold(activation), activation.kernel, sketch.in_integers),
    )
    return replace(views, sketch=sketch, few=arguments)


def _threshold(activation: Activation) -> float:
    return float(np.float32(activation.zero_below))  # as float32, where torch compares it


def finite(weight: Tensor) -> bool:
    """Whether all weights are (none to be seen on the meta device)."""
    if weight.device.type == "meta" or weight.numel() == 0:
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(weight.detach()))).all())
