"""What the kernels read of a layer: views of its live weights, and their sketch."""

import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reluctant.activations import Activation
from reluctant.errors import ReluctantError
from reluctant.kernels.candidates import Layer
from reluctant.kernels.codes import NONE
from reluctant.kernels.entry import table_of
from reluctant.kernels.norm import Norm
from reluctant.neurons import Neurons
from reluctant.sketch import SERVED, Sketch, as_array

_one_at_a_time = threading.RLock()


@dataclass(frozen=True)
class Prepared:
    """What the kernels read, and the weights' stamp when it was made.

    dtype: of the weights. sparse: whether the sparse ways can serve the layer; if not, the rest is
    empty. rows: as in `kernels.candidates.Layer`, from rows to value_bias; norm: the fields of
    `kernels.norm.Norm`. many: the arguments of `kernels.many.combine` between z and limit; empty if
    it cannot serve. sketch: made when a call first needs it, and with it few: the table of
    `kernels.entry`, addresses in rows, norm and sketch; and screened: the arguments of
    `kernels.screened.run` between x and limit, or empty.
    """

    stamp: tuple[Any, ...]
    dtype: torch.dtype
    sparse: bool
    rows: tuple[Any, ...] = ()
    norm: tuple[Any, ...] = ()
    many: tuple[Any, ...] = ()
    sketch: Sketch | None = None
    few: tuple[Any, ...] = ()
    screened: tuple[Any, ...] = ()


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
    dtype = neurons.keys.dtype
    tensors = neurons.tensors()
    norm = neurons.norm_weight
    present = [t for t in (*tensors, norm) if t is not None]
    as_stored = [t for t in (*tensors[:2], *tensors[3:], norm) if t is not None]  # all but W2
    threshold = _threshold(activation)
    if not (
        activation.kernel != NONE
        and dtype in SERVED
        and all(t.dtype == dtype and t.device.type == "cpu" for t in present)
        # Views, not copies: a write to a bias is to be seen at once.
        and all(t.is_contiguous() for t in as_stored)
        # Torch refuses to compute with a weight of inference mode once its memory was replaced.
        and not (neurons.down.weight.is_inference() and not neurons.values.is_contiguous())
        # Skipping a zero would hide 0 * inf = NaN.
        and all(finite(t) for t in (neurons.down.weight, neurons.up.weight))
        # A z that is rounded to bfloat16 must not be rounded past the threshold.
        and torch.tensor(threshold, dtype=dtype).item() == threshold
        and (norm is None or (norm.shape == (neurons.d_ff,) and _keeps_zeros(neurons.eps)))
        and neurons.eps == neurons.first_eps
    ):
        return Prepared(neurons.stamp(), dtype, sparse=False)
    neurons.lay_out()
    if not neurons.values.is_contiguous():  # W2 is a view of weights that are not to be moved
        return Prepared(neurons.stamp(), dtype, sparse=False)
    up, gate = neurons.up, neurons.gate
    firing = up if gate is None else gate  # whose product goes through the activation
    rows = tuple(
        as_array(t.detach())
        for t in (
            *(firing.weight, _or_zeros(firing.bias, neurons.d_ff, dtype)),
            *(up.weight, _or_zeros(up.bias, neurons.d_ff, dtype)),
            *(neurons.values, _or_zeros(neurons.down.bias, neurons.d_model, dtype)),
        )
    )
    weight = as_array(torch.empty(0, dtype=dtype) if norm is None else norm.detach())
    plain = gate is None and norm is None and dtype == torch.float32
    many = (threshold, activation.kernel, *rows[4:]) if plain else ()
    return Prepared(
        neurons.stamp(), dtype, sparse=True, rows=rows, norm=(weight, neurons.eps), many=many
    )


def _keeps_zeros(eps: float) -> bool:
    """Whether 1 / sqrt(eps), a norm's largest factor, is finite, subnormals flushed or not."""
    return 2.0**-126 <= eps < 2.0**126


def _or_zeros(bias: Tensor | None, size: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(size, dtype=dtype) if bias is None else bias


def _sketched(views: Prepared, neurons: Neurons, activation: Activation) -> Prepared:
    gated = neurons.gate is not None
    max_norm = 0.0
    try:
        sketch = Sketch.of((neurons.gate or neurons.up).weight)
        if gated:
            max_norm = float(neurons.up.weight.norm(dim=1, dtype=torch.float64).max())
    except ReluctantError:  # a NaN has come into the keys: the dense way shows it
        return replace(views, sparse=False)
    layer = Layer(
        *(sketch.q, sketch.scale, sketch.radius, sketch.own_norm, sketch.row_sum),
        *(*views.rows, sketch.probe_at, sketch.probe),
    )
    norm = max(sketch.max_norm, max_norm)
    numbers = (norm, sketch.slack, _threshold(activation), activation.kernel, gated)
    table = table_of(layer, Norm(*views.norm), (*numbers, sketch.in_integers))
    normed = neurons.norm is not None
    screens = sketch.in_integers and views.dtype == torch.float32 and not normed
    screened = (*layer, *numbers) if screens else ()
    return replace(views, sketch=sketch, few=table, screened=screened)


def _threshold(activation: Activation) -> float:
    return float(np.float32(activation.zero_below))  # as float32, where torch compares it


def finite(weight: Tensor) -> bool:
    """Whether all weights are (none to be seen on the meta device)."""
    if weight.device.type == "meta" or weight.numel() == 0:
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(weight.detach()))).all())
