"""What the kernels read of a layer: its live weights, copies of some, and their sketch."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from reluctant.activations import Activation
from reluctant.errors import ReluctantError
from reluctant.freshness import Stamp, finite, remembered
from reluctant.kernels.candidates import Layer
from reluctant.kernels.codes import HARDSWISH, NONE
from reluctant.kernels.entry import table_of
from reluctant.kernels.norm import Norm
from reluctant.kernels.sums import HUGE_PRODUCT
from reluctant.own_lock import OwnLock
from reluctant.sketch import SERVED, Sketch, sketch_bytes
from reluctant.weights import Matrix, Neurons, as_array, narrowest, stored_as


@dataclass(frozen=True)
class Prepared:
    """What the kernels read, and the weights' stamp from before it was made.

    dtype: of the weights; read: the one that the kernels read them in. sparse: whether the sparse
    ways can serve the layer; if not, the rest is empty. values: the layer's, as the kernels read
    them. many: the arguments of `kernels.many.combine` between z and limit; empty if it cannot
    serve; watched: those of `kernels.watch.any_changed` before turn, for it. sketch: made when a
    call first needs it, and with it few: the table of `kernels.entry`, addresses in `arrays`; and
    screened: the arguments of `kernels.screened.run` between x and limit, or empty.
    """

    stamp: Stamp
    dtype: torch.dtype
    read: torch.dtype
    sparse: bool
    values: Matrix | None = None
    many: tuple[Any, ...] = ()
    watched: tuple[Any, ...] = ()
    sketch: Sketch | None = None
    arrays: tuple[Any, ...] = ()
    few: tuple[Any, ...] = ()
    screened: tuple[Any, ...] = ()

    def serves(self, *, with_sketch: bool) -> bool:
        """Whether it is still true, and all that is asked for."""
        enough = not with_sketch or self.sketch is not None or not self.sparse
        return enough and self.stamp.holds()


class Derived:
    """What was derived from one layer's weights: made when first needed, dropped when untrue.

    Threads that need it at once make it once; a forked child makes its own, whatever another
    thread was about to make when it was forked. narrow: whether kernels read float32 weights that
    are 16-bit numbers as such.
    """

    def __init__(self, neurons: Neurons, activation: Activation, *, narrow: bool = False) -> None:
        self._neurons, self._activation, self._narrow = neurons, activation, narrow
        self._now: Prepared | None = None
        self._lock = OwnLock()

    def get(self, *, with_sketch: bool) -> Prepared:
        """What is true of the weights as they are now."""
        now = self._now
        if now is not None and now.serves(with_sketch=with_sketch):
            return now
        with self._lock.held():
            now = self._now  # another thread may have made it meanwhile
            if now is None or not now.serves(with_sketch=with_sketch):
                layer = self._neurons, self._activation
                now = prepare(*layer, now, narrow=self._narrow, with_sketch=with_sketch)
                self._now = now
            return now

    def keeps(self, ready: Prepared) -> bool:
        """Whether it is what was made last."""
        return self._now is ready

    def drop(self, untrue: Prepared | None = None) -> None:
        """Forget it; if it is given, only as long as no other has taken its place."""
        with self._lock.held():
            if untrue is None or self._now is untrue:
                self._now = None

    def drop_old(self) -> None:
        """Forget it if torch knows of a change: for calls that do not need it."""
        now = self._now
        if now is not None and not now.stamp.holds():
            self._now = None

    def sparse(self) -> bool:
        """Whether the sparse ways can serve the layer. Makes nothing."""
        now = self._now
        if now is not None and now.stamp.holds():
            return now.sparse
        return servable(self._neurons, self._activation)

    def bytes(self) -> int:
        """Memory that it takes, once all of it was needed, as far as is known. Makes nothing."""
        if not self.sparse():
            return 0
        neurons, now = self._neurons, self._now
        w1, _, w2, _, wg, _ = neurons.tensors()
        stored = (stored_as(w) for w in (w1, w2.t(), wg) if w is not None)
        if now is not None and now.read is not now.dtype:
            copies = sum(2 * weight.numel() for weight, _ in filter(None, stored))
        else:
            copies = sum(weight.nbytes for weight, copied in filter(None, stored) if copied)
        return copies + sketch_bytes(neurons.d_ff, neurons.d_model)


def servable(neurons: Neurons, activation: Activation) -> bool:
    """Whether the sparse ways can serve a layer, whatever its numbers are: they are not read."""
    w1, b1, w2, b2, wg, bg = neurons.tensors()
    norm = neurons.norm_weight
    present = [t for t in (w1, b1, w2, b2, wg, bg, norm) if t is not None]
    if activation.kernel == NONE or any(t.dtype not in SERVED for t in present):
        return False
    (d_ff, d_model), dtype = w1.shape, w1.dtype
    threshold = activation.threshold
    wanted = [(b1, d_ff), (bg, d_ff), (b2, d_model), (norm, d_ff)]
    return (
        all(t.dtype == dtype and t.device.type == "cpu" for t in present)
        and d_ff > 0
        and d_model > 0
        and w2.shape == (d_model, d_ff)
        and (wg is None or wg.shape == w1.shape)
        and all(stored_as(w) is not None for w in (w1, w2, wg) if w is not None)
        # Nobody counts how often those are written.
        and not any(w.is_inference() for w in (w1, w2, wg) if w is not None)
        # Views, not copies: a write to a bias is to be seen at once.
        and all(t is None or (t.shape == (n,) and t.is_contiguous()) for t, n in wanted)
        # A z that is rounded to 16 bits must not be rounded past the threshold.
        and _is_number_of(dtype, threshold)
        and (dtype != torch.float16 or _float16_is_served(activation, norm))
        and (norm is None or _keeps_zeros(neurons.eps))
        and neurons.eps == neurons.first_eps
    )


def prepare(
    neurons: Neurons,
    activation: Activation,
    known: Prepared | None,
    *,
    narrow: bool = False,
    with_sketch: bool,
) -> Prepared:
    """`known`, or, if the weights have changed since, anew; with what it lacks."""
    with torch.inference_mode(False), torch.no_grad():
        if known is None or not known.stamp.holds():
            known = _with_values(neurons, activation, narrow=narrow)
        needed = with_sketch and known.sparse and known.sketch is None
        return _with_sketch(known, neurons, activation) if needed else known


def _with_values(neurons: Neurons, activation: Activation, *, narrow: bool) -> Prepared:
    stamp, dtype = Stamp(neurons), neurons.keys.dtype  # before anything is read
    w1, _, w2, b2, wg, _ = neurons.tensors()
    # Skipping a zero would hide 0 * inf = NaN.
    if not (servable(neurons, activation) and all(finite(w) for w in (w2, w1))):
        return Prepared(stamp, dtype, dtype, sparse=False)
    read = dtype
    if narrow and dtype is torch.float32:  # all in one dtype, or there would be kernels of nine
        read = narrowest([w for w in (w1, w2, wg) if w is not None], SERVED)
    values = Matrix.of(w2.t(), read)
    if wg is not None or neurons.norm is not None or dtype != torch.float32:
        return Prepared(stamp, dtype, read, sparse=True, values=values)
    bias = as_array(_or_zeros(b2, neurons.d_model, dtype))
    many = (activation.threshold, activation.kernel, as_array(values.rows), bias)
    watched = tuple(remembered((None, None, values)))
    return Prepared(stamp, dtype, read, sparse=True, values=values, many=many, watched=watched)


def _with_sketch(known: Prepared, neurons: Neurons, activation: Activation) -> Prepared:
    w1, b1, _, b2, wg, bg = neurons.tensors()
    d_ff, dtype = neurons.d_ff, known.dtype
    gated, max_norm = wg is not None, 0.0
    keys = Matrix.of(w1, known.read)
    # Whose product goes through the activation.
    gates = Matrix.of(wg, known.read) if gated else keys
    try:
        sketch = Sketch.of(gates.rows)
        if gated:
            max_norm = float(keys.rows.norm(dim=1, dtype=torch.float64).max())
    except ReluctantError:  # a NaN has come into the keys: the dense way shows it
        return Prepared(known.stamp, dtype, dtype, sparse=False)
    values, norm = known.values, neurons.norm_weight
    assert values is not None
    biases = [(bg, d_ff) if gated else (b1, d_ff), (b1, d_ff), (b2, neurons.d_model)]
    rows = [
        as_array(t)
        for matrix, (bias, n) in zip((gates, keys, values), biases, strict=True)
        for t in (matrix.rows, _or_zeros(bias, n, dtype))
    ]
    watched: tuple[Any, ...] = remembered((gates, keys if gated else None, values))
    own: tuple[Any, ...] = (sketch.q, sketch.scale, sketch.radius, sketch.own_norm, sketch.row_sum)
    layer = Layer(*own, *rows, *watched)
    weight = as_array(torch.empty(0, dtype=dtype, device="cpu") if norm is None else norm.data)
    largest = max(sketch.max_norm, max_norm)
    if gated and dtype == torch.float16:  # a factor that is not computed must not overflow, either
        largest *= HUGE_PRODUCT / 2**14
    numbers = (largest, sketch.slack, activation.threshold, activation.kernel, gated)
    table = table_of(layer, Norm(weight, neurons.eps), (*numbers, sketch.in_integers))
    screens = sketch.in_integers and dtype == torch.float32 and norm is None
    return replace(
        known,
        sketch=sketch,
        arrays=(*layer, weight),
        few=table,
        screened=(*layer, *numbers) if screens else (),
    )


def _is_number_of(dtype: torch.dtype, number: float) -> bool:
    return float(torch.tensor(number, dtype=dtype, device="cpu")) == number


def _float16_is_served(activation: Activation, norm: Tensor | None) -> bool:
    """Its numbers end soon. hardswish(-inf) is NaN, no zero; and norms add up squares."""
    return activation.kernel != HARDSWISH and norm is None


def _keeps_zeros(eps: float) -> bool:
    """Whether 1 / sqrt(eps), a norm's largest factor, is finite, subnormals flushed or not."""
    return 2.0**-126 <= eps < 2.0**126


def _or_zeros(bias: Tensor | None, size: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(size, dtype=dtype, device="cpu") if bias is None else bias.data
