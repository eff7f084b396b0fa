"""A training step of one layer, over its active neurons: exact gradients for less time and memory.

After the first product it is known which neurons are active, and the other five products of a step
(a gated layer: eight) need nothing else. So the first one is dense, and what is kept for the
backward pass is x and, for each token, its active neurons and their pre-activations.

    y = h W2 + b2                               over the listed neurons of each token
    dh = dy W2^T,  dz = f'(z) dh                for the listed pairs
    dW2 = h^T dy,  dW1 = dz^T x,  db1 = sum dz  over each neuron's tokens
    dx = dz W1^T,  db2 = sum dy

What is left out are products with an exact zero. Where one of them could be 0 * inf = NaN - a
number of dy, W2 or a gated layer's factors that is not finite - torch computes. Where so many
neurons are active that it would not pay, all products are dense, by oneDNN where it is the faster.

Nothing here outlives the call but what autograd keeps: weights may change between any two steps,
in any way.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reluctant import dense
from reluctant.activations import Activation
from reluctant.errors import ReluctantError
from reluctant.kernels import active, gradients, screened_active, transpose
from reluctant.kernels.codes import HARDSWISH, RELU2, RELU6
from reluctant.kernels.sums import BYTES, HUGE_PRODUCT
from reluctant.kernels.team import team_for
from reluctant.sketch import Sketch
from reluctant.weights import as_array

DTYPES = (torch.float32, torch.bfloat16)
SAMPLED = 16  # tokens by which it is decided whether a sketch would pay
_Z_BYTES = 2**24  # of z, of so many tokens as are listed at once: it is not kept
_CHAIN = 1024  # tokens
_FEWEST_LISTS = 4  # tensors that are kept of active neurons; the dense way keeps fewer
_SHORT = 2**16  # neurons whose numbers need no more than 16 bits
Weights = tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Call:
    """What a call of the layer is to do besides the weights.

    activation: one that `serves`. drop: the probability of dropping an element of the hidden
    vector. limit: the share of active neurons up to which the products go over these only. screen:
    the one up to which a sketch finds them, in the place of a dense first product. sized: whether somebody wants the sum of |h|, which is 0 otherwise.
    seen: is told how many pairs of token and neuron there were, how many were active, and whether
    the products go over these (sparse).
    """

    activation: Activation
    drop: float
    limit: float
    screen: float
    sized: bool
    seen: Callable[..., object]

    @property
    def scale(self) -> float:
        """Of what dropout lets be."""
        return 1 / (1 - self.drop) if self.drop < 1 else 0.0

    @property
    def threshold(self) -> float:
        """At and below it, value and slope are exactly zero."""
        return float(np.float32(self.activation.zero_below))


def unserved(x: Tensor, weights: Weights) -> str:
    """Why such tensors are left to torch; "" if they are not."""
    given = [t for t in (x, *weights) if t is not None]
    if any(t.dtype is not x.dtype for t in given) or x.dtype not in DTYPES:
        kinds = sorted({str(t.dtype).removeprefix("torch.") for t in given})
        return f"tensors of {', '.join(kinds)}"
    if not all(t.is_cpu and t.layout is torch.strided for t in given):
        return "tensors that are not on the CPU, or not strided"
    return ""


def feed_forward(x: Tensor, weights: Weights, call: Call) -> tuple[Tensor, Tensor]:
    """The layer, and the sum of |h| over all tokens and neurons if it is wanted: with gradients.

    x: (..., d_model); weights: those of `Neurons.tensors`. Raises what torch raises.
    """
    seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_()) if call.drop > 0 else 0
    rows = x.reshape(-1, x.shape[-1])
    y, size = _FeedForward.apply(rows, *weights, call, seed)  # type: ignore[no-untyped-call]
    return y.view(x.shape), size


def plain(
    x: Tensor,
    weights: Weights,
    call: Call,
    drop: Callable[[Tensor], Tensor],
    norm: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The same in torch's operations. drop: dropout of h, where there is any."""
    w1, b1, w2, b2, wg, bg = weights
    h = call.activation(F.linear(x, w1, b1) if wg is None else F.linear(x, wg, bg))
    if wg is not None:
        h = h * F.linear(x, w1, b1)
    if call.drop > 0:
        h = drop(h)
    wide = torch.promote_types(h.dtype, torch.float32)
    size = h.abs().sum(dtype=wide) if call.sized else torch.zeros((), dtype=wide)
    return F.linear(h if norm is None else norm(h), w2, b2), size


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        *tensors, call, seed = arguments
        weights: Any = tuple(None if t is None else t.detach() for t in tensors)
        rows = x.detach().contiguous()
        y, size, kept = forward(rows, weights, call, seed)
        ctx.call = call
        # As with torch's own layers, biases may be written to before the backward pass.
        biases = tensors[1::2]
        ctx.biases = [(t, None if t is None else t._version) for t in biases]
        ctx.save_for_backward(x, *tensors[::2], *kept)
        return y, size

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dsize: Tensor) -> Any:  # type: ignore[override]
        x, w1, w2, wg, *kept = ctx.saved_tensors
        (b1, b2, bg), wanted = (t for t, _ in ctx.biases), ctx.needs_input_grad[:7]
        inputs = [x, w1, b1, w2, b2, wg, bg]
        twice = torch.is_grad_enabled()  # somebody differentiates this once more
        repeats = twice or not are_exact(kept, dy)
        if repeats and any(t is not None and t._version != version for t, version in ctx.biases):
            raise RuntimeError(
                "a bias of a feed-forward layer was written to after the forward pass, which this "
                "backward pass has to repeat: write to it after the backward pass"
            )
        if twice:
            return *_differentiable(inputs, kept, ctx.call, (dy, dsize), wanted), None, None
        rows, *weights = (None if t is None else t.detach() for t in inputs)
        if repeats:
            kept = dense_instead(rows, tuple(weights), kept, ctx.call)
        step = rows.contiguous(), tuple(weights), kept, ctx.call, dy.contiguous()
        return *gradients_of(*step, dsize, wanted), None, None


def forward(
    rows: Tensor, weights: Weights, call: Call, seed: int
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """y, the sum of |h|, and what the backward pass needs, without autograd.

    rows: (tokens, d_model), contiguous. Kept are four or more tensors if the products go over the
    active neurons (the arrays of `active.Active`, a gated layer's factors), else three or less.
    """
    lists, z = _listed(rows, weights, call, seed)
    values = None if lists is None else _values(weights[2])
    if lists is None or values is None:
        return _dense_forward(rows, weights, call, seed, z)
    return _sparse_forward(rows, weights, call, lists, values)


def are_exact(kept: Any, dy: Tensor) -> bool:
    """Whether gradients by what was kept would be the layer's: 0 * inf is none of a zero."""
    return len(kept) < _FEWEST_LISTS or _is_finite(dy)


def dense_instead(rows: Tensor, weights: Any, kept: Any, call: Call) -> list[Tensor]:
    """What the dense way would have kept."""
    _, _, dense_kept = _dense_forward(rows, weights, replace(call, drop=0.0), 0, None)
    h = dense_kept[0]
    return dense_kept if call.drop == 0 else [*dense_kept, _stays(h, kept)]


def gradients_of(
    rows: Tensor, weights: Any, kept: Any, call: Call, dy: Tensor, dsize: Tensor, wanted: Any
) -> list[Any]:
    """The gradients of x and of the weights, those that are wanted, where they `are_exact`.

    weights: as in `forward`; biases are not read. dy: (tokens, d_model), contiguous; dsize: of the
    sum of |h|.
    """
    step = _Step(rows, weights, dy)
    if len(kept) >= _FEWEST_LISTS:
        return _sparse_backward(step, kept, call, float(dsize), wanted)
    return _dense_backward(step, kept, call, dsize, wanted)


@dataclass(frozen=True)
class _Step:
    """rows, out: x and dy as (tokens, d_model), contiguous; weights: without gradients."""

    rows: Tensor
    weights: Any
    out: Tensor


def _is_finite(t: Tensor) -> bool:
    """Whether all numbers are; rarely, where their sum overflows, False as well."""
    return bool(t.sum(dtype=torch.float32).isfinite())


def _listed(rows: Tensor, weights: Any, call: Call, seed: int) -> tuple[Any, Tensor | None]:
    """The arrays of `active.Active`, or None where the dense way should serve; the first product,
    as far as it is of use to that."""
    w1, b1, _, _, wg, bg = weights
    fires, bias = (w1, b1) if wg is None else (wg, bg)
    tokens, d_ff = len(rows), len(w1)
    if call.limit <= 0 or (wg is not None and not _factors_are_finite(rows, w1, b1)):
        return None, None
    team, parts, total = team_for(rows.numel() * d_ff), list[tuple[Tensor, ...]](), 0
    sketch = _sketch(rows, fires, bias, call)
    length = max(_Z_BYTES // (rows.itemsize * d_ff), 16)
    for first in range(0, tokens, length):
        some = rows[first : first + length]
        rule = (call.threshold, call.drop, active.seed_from(seed, first * d_ff))
        start = torch.empty(len(some) + 1, dtype=torch.int64)
        screened = None if sketch is None else _screened(some, sketch, fires, bias, rule, start)
        if screened is not None:
            found, *part = screened
            total += found
            parts.append((start, *part))
            continue
        z = dense.linear(some, fires, bias)
        found = active.count(as_array(z), *rule, start.numpy(), team)
        total += found
        if found > call.limit * z.numel():
            call.seen(z.numel(), found, sparse=False)
            return None, z if first == 0 else None
        made = _room(len(z), d_ff, int(start[-1]), z.dtype)
        offset, neuron, kept = made
        arrays = offset.numpy(), neuron.numpy(), as_array(kept)
        active.fill(as_array(z), *rule, start.numpy(), *arrays, team)
        parts.append((start, *made))
    call.seen(tokens * d_ff, total, sparse=True)
    return _joined(parts), None


def _room(tokens: int, d_ff: int, pairs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """For `offset`, `neuron` and `z` of `active.Active`."""
    kind = torch.uint16 if d_ff < _SHORT else torch.int32
    offset = torch.empty(tokens, -(-d_ff // active.BLOCK) + 1, dtype=kind)
    return offset, torch.empty(pairs, dtype=kind), torch.empty(pairs, dtype=dtype)


def _sketch(rows: Tensor, fires: Tensor, bias: Tensor | None, call: Call) -> Sketch | None:
    """The sketch of the rows that feed the activation, if that pays: by some tokens' density.

    Screening reads a byte where the first product reads four; but the sketch has to be made anew,
    and the more neurons are active, the more candidates have to be computed besides.
    """
    finite = _is_finite(rows) and (bias is None or _is_finite(bias))
    if call.screen <= 0 or not BYTES or not finite or call.activation.kernel == HARDSWISH:
        return None  # hardswish(-inf) is NaN
    every = max(len(rows) // SAMPLED, 1)
    z = dense.linear(rows[::every][:SAMPLED], fires, bias)
    if int((z > call.threshold).sum()) > call.screen * z.numel():
        return None
    try:
        sketch = Sketch.of(fires)
    except ReluctantError:  # a number that is not finite
        return None
    return sketch if sketch.in_integers else None


def _screened(
    rows: Tensor, sketch: Sketch, fires: Tensor, bias: Tensor | None, rule: Any, start: Tensor
) -> tuple[Any, ...] | None:
    """How many are active, and the arrays of `active.Active` but `start`, which is written; None if
    the weights have changed while it was made."""
    (tokens, d_ff), (threshold, drop, seed) = (len(rows), len(fires)), rule
    team = team_for(rows.numel() * d_ff // 4)
    own = sketch.q, sketch.scale, sketch.radius, sketch.own_norm, sketch.row_sum
    b = torch.zeros(d_ff) if bias is None else bias.contiguous()
    layer = *own, as_array(fires.contiguous()), as_array(b), sketch.max_norm, sketch.slack
    *lists, found = screened_active.find(
        as_array(rows), *layer, threshold, drop, seed, start.numpy(), team
    )
    if found < 0:
        return None
    offset, neuron, z = made = _room(tokens, d_ff, int(start[-1]), rows.dtype)
    arrays = offset.numpy(), neuron.numpy(), as_array(z)
    screened_active.copy(*lists, d_ff, drop, seed, start.numpy(), *arrays, team)
    return found, *made


def _values(w2: Tensor) -> Tensor | None:
    """The rows of W2 on end, (d_ff, d_model) float32; None if some number may not be finite."""
    made = np.empty(w2.shape[::-1], np.float32)
    finite = transpose.turned(as_array(w2.contiguous()), made, team_for(2 * made.nbytes))
    return torch.from_numpy(made) if finite else None


def _sparse_forward(
    rows: Tensor, weights: Any, call: Call, lists: Any, values: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """y, the sum of |h|, and what is to be kept: the lists, and a gated layer's factors."""
    w1, b1, _, b2, wg, _ = weights
    (tokens, d), d_ff = rows.shape, len(w1)
    team, (start, offset, neuron, z) = team_for(rows.numel() * d_ff), lists
    at = start.numpy(), offset.numpy(), neuron.numpy()
    factor = torch.empty(0 if wg is None else len(neuron))
    if wg is not None:
        c = as_array((torch.zeros(d_ff) if b1 is None else b1.float()).view(1, -1))
        keys = as_array(w1.contiguous())
        gradients.factors(*at, as_array(rows), keys, c, factor.numpy(), team)
    h, y = torch.empty(len(neuron)), torch.empty(tokens, d)
    kernel = call.activation.kernel, call.threshold, np.float32(call.scale)
    active.hidden(as_array(z), factor.numpy(), *kernel, h.numpy(), team)
    bias = as_array(torch.zeros(d) if b2 is None else b2.float())
    active.add_rows(*at, h.numpy(), values.numpy(), bias, as_array(y), team)
    size = h.abs().sum() if call.sized else torch.zeros(())
    return y.to(rows.dtype), size, [*lists] if wg is None else [*lists, factor]


def _factors_are_finite(rows: Tensor, w1: Tensor, b1: Tensor | None) -> bool:
    """An infinite factor makes a NaN of a zero. Lengths, which bound every product."""
    norm = partial(torch.linalg.vector_norm, dtype=torch.float64)
    bias = 0.0 if b1 is None else float(norm(b1, torch.inf))
    return float(norm(w1)) * float(norm(rows)) + bias < HUGE_PRODUCT


def _joined(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Lists of some tokens after those of others."""
    if len(parts) == 1:
        return parts[0]
    starts, at = [parts[0][0][:1]], 0
    for start, *_ in parts:
        starts.append(start[1:] + at)
        at += int(start[-1])
    return (torch.cat(starts), *(torch.cat(each) for each in list(zip(*parts, strict=True))[1:]))


def _sparse_backward(step: _Step, kept: Any, call: Call, dsize: float, wanted: Any) -> list[Any]:
    start, offset, neuron, z, *more = kept
    w1, _, w2, _, wg, _ = step.weights
    (tokens, d), d_ff, pairs = step.rows.shape, w1.shape[0], len(neuron)
    team = team_for(step.rows.numel() * d_ff)
    of_x, of_w1, of_b1, of_w2, of_b2, of_wg, of_bg = wanted
    if wg is None:  # what feeds the activation is then w1
        of_wg, of_bg, of_w1, of_b1 = of_w1, of_b1, False, False

    def room(is_wanted: bool, *shape: int) -> Tensor:
        made = np.empty(shape if is_wanted else (0,) * len(shape), np.float32)
        return torch.from_numpy(made)

    dz, dfactor = room(of_x, pairs), room(of_x and wg is not None, pairs)
    maps = [room(of_wg, d_ff, d), room(of_bg, d_ff), room(of_w1, d_ff, d), room(of_b1, d_ff)]
    dw2 = room(of_w2, d, d_ff)
    lists = start.numpy(), offset.numpy(), neuron.numpy()
    factor = more[0] if more else torch.empty(0)
    read = *lists, as_array(z), factor.numpy(), as_array(step.rows), as_array(step.out)
    rule = call.activation.kernel, call.threshold, np.float32(call.scale), np.float32(dsize)
    written = (dz, dfactor, *maps, dw2)
    if any(wanted[k] for k in (0, 1, 2, 3, 5, 6)):
        out = (each.numpy() for each in written)
        gradients.run(*read, as_array(w2.contiguous()), *rule, *out, team)
    dx = None
    if of_x:
        for numbers, matrix in [(dz, w1)] if wg is None else [(dz, wg), (dfactor, w1)]:
            part, zeros = torch.empty(tokens, d), np.zeros(d, np.float32)
            rows = as_array(matrix.contiguous())
            active.add_rows(*lists, numbers.numpy(), rows, zeros, as_array(part), team)
            dx = part if dx is None else dx.add_(part)
    db2 = step.out.sum(0) if of_b2 else None
    dgate, dgate_bias, dup, dup_bias = maps
    first = (dgate, dgate_bias, dw2, db2, None, None)
    found = (dx, *(first if wg is None else (dup, dup_bias, dw2, db2, dgate, dgate_bias)))
    return [g.to(step.rows.dtype) if w else None for g, w in zip(found, wanted, strict=True)]


def _dense_forward(
    rows: Tensor, weights: Any, call: Call, seed: int, z: Tensor | None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """All products in full: y, the sum of |h|, and what is to be kept: z (of a ReLU what becomes of
    it), a gated layer's factors, what dropout lets be. z: the first tokens' first product."""
    w1, b1, w2, b2, wg, bg = weights
    fires = (w1, b1) if wg is None else (wg, bg)
    done = 0 if z is None else len(z)
    if z is None or done < len(rows):
        rest = dense.linear(rows[done:], *fires)
        z = rest if z is None else torch.cat([z, rest])
    h = torch.relu_(z) if call.activation.name == "relu" else call.activation(z)
    factor = dense.linear(rows, w1, b1) if wg is not None else None
    h = h if factor is None else h * factor
    stays = None
    if call.drop > 0:
        draw = torch.Generator("cpu").manual_seed(seed)
        stays = torch.empty(h.shape, dtype=torch.bool).bernoulli_(1 - call.drop, generator=draw)
        h = h * (stays * call.scale).to(h.dtype)
    size = h.abs().sum(dtype=torch.float32) if call.sized else torch.zeros(())
    return dense.linear(h, w2, b2), size, [t for t in (z, factor, stays) if t is not None]


def _dense_backward(step: _Step, kept: Any, call: Call, dsize: Tensor, wanted: Any) -> list[Any]:
    (w1, _, w2, _, wg, _), dy, x = step.weights, step.out, step.rows
    z, factor = kept[0], None if wg is None else kept[1]
    scale = None if call.drop == 0 else (kept[-1] * call.scale).to(z.dtype)
    value = z if call.activation.name == "relu" else call.activation(z)
    h = value if factor is None else value * factor
    h = h if scale is None else h * scale
    found: list[Any] = [None] * 7
    if wanted[3]:
        found[3] = _over_tokens(dy, h)
    if wanted[4]:
        found[4] = dy.sum(0)
    if not any(wanted[k] for k in (0, 1, 2, 5, 6)):
        return found
    dh = dense.linear(dy, w2.t(), None)
    if dsize != 0:
        dh = dh + dsize * h.sign()
    dh = dh if scale is None else dh * scale
    dz = _through(call, z, dh if factor is None else dh * factor)
    maps = [(dz, w1, 1)] if factor is None else [(dz, wg, 5), (dh * value, w1, 1)]
    for each, weight, at in maps:
        if wanted[0]:
            part = dense.linear(each, weight.t(), None)
            found[0] = part if found[0] is None else found[0] + part
        if wanted[at]:
            found[at] = _over_tokens(each, x)
        if wanted[at + 1]:
            found[at + 1] = each.sum(0)
    return found


def _over_tokens(a: Tensor, b: Tensor) -> Tensor:
    """a^T b, some tokens after the others: oneDNN adds one long chain up, and loses on the way."""
    parts = (dense.linear(*(t[first : first + _CHAIN].t() for t in (a, b)), None)
             for first in range(0, len(a), _CHAIN))  # fmt: skip
    total = next(parts)
    for part in parts:
        total += part
    return total


def _through(call: Call, z: Tensor, dh: Tensor) -> Tensor:
    """f'(z) dh, as autograd has it."""
    aten, kernel = torch.ops.aten, call.activation.kernel
    if kernel == RELU2:
        dh = dh * (2 * torch.relu(z))
    elif kernel == RELU6:
        return aten.hardtanh_backward(dh, z, 0.0, 6.0)  # type: ignore[no-any-return]
    elif kernel == HARDSWISH:
        return aten.hardswish_backward(dh, z)  # type: ignore[no-any-return]
    return aten.threshold_backward(dh, z, call.activation.zero_below)  # type: ignore[no-any-return]


def _differentiable(inputs: Any, kept: Any, call: Call, out: Any, wanted: Any) -> list[Any]:
    """The gradients in torch's operations, which repeat the forward pass.

    inputs: x and the six weights; out: dy and that of the sum of |h|.
    """

    def drop(h: Tensor) -> Tensor:
        stays = kept[-1] if len(kept) < _FEWEST_LISTS else _stays(h, kept)
        return h * (stays * call.scale).to(h.dtype)

    with torch.enable_grad():
        x, *weights = inputs
        results = plain(x, tuple(weights), call, drop)
        some = [t for t, w in zip(inputs, wanted, strict=True) if w]
        reached, gradients = zip(
            *[(r, g) for r, g in zip(results, out, strict=True) if r.requires_grad], strict=True
        )
        found = iter(torch.autograd.grad(reached, some, gradients, create_graph=True))
    return [next(found) if w else None for w in wanted]


def _stays(h: Tensor, kept: Any) -> Tensor:
    """Which h dropout let be; of neurons that are not active it does not matter."""
    start, _, neuron, *_ = kept
    found = torch.zeros(h.shape, dtype=torch.bool)
    token = torch.repeat_interleave(torch.arange(len(found)), start.diff())
    found[token, neuron.long()] = True
    return found
