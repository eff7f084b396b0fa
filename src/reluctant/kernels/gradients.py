"""The gradients of a layer's weights and of its activations, over its active neurons only.

Neurons go in blocks. A block gathers its pairs of token and neuron neuron by neuron; their rows of
W2, and the sums that become its gradient, lie in room of their own, on end, where W2 has them in
columns. Tokens go in blocks, too, whose x and dy stay in the nearer caches while the block's
neurons pass by: each neuron meets each of its tokens once, for the product dh = <dy, v> together
with h dy, and for dz x. The order of every sum goes by the lists alone.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic

from reluctant.kernels.active import BLOCK, slope_of, value_of
from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import as_float
from reluctant.kernels.rows import STRIP, add_list
from reluctant.kernels.team import spread
from reluctant.kernels.transpose import turn
from reluctant.kernels.vector import I64, LANES, ZEROS, Emitter

# Of x and dy of a block of tokens. Smaller ones stay in the second-level cache, but their lists are
# so short that beginning and ending them costs more: at 1024/4096, 5 %, 34 ms with 2^19, 20 here.
TOKEN_BYTES = 2**21
_PAD = 16  # columns more than the rows have: whose length would else be a power of two
_CHAIN = 64  # pairs whose products are added up one to the other: longer chains lose accuracy
_LEAST_TOKENS = 256  # of a block: each begins a sum of its own
_CHAINS = 2  # vectors of a product that are summed apart


class Pairs(NamedTuple):
    """What is known of a layer's pairs of token and active neuron, and of its tokens.

    start, offset, neuron, z: as in `active.Active`. factor: (n,) float32, what f(z) is multiplied
    with in gated layers, otherwise (0,). x, dy: (tokens, d); w2: (d, d_ff): float32, or bfloat16
    in uint16, contiguous.
    """

    start: npt.NDArray[np.int64]
    offset: npt.NDArray[Any]
    neuron: npt.NDArray[Any]
    z: npt.NDArray[Any]
    factor: npt.NDArray[np.float32]
    x: npt.NDArray[Any]
    dy: npt.NDArray[Any]
    w2: npt.NDArray[Any]


class Wanted(NamedTuple):
    """The gradients, float32, to be written; empty ones are not wanted.

    z, factor: (n,), of each pair. gate, gate_bias: (d_ff, d) and (d_ff,), of the rows that feed the
    activation; up, up_bias: of a gated layer's others; w2: (d, d_ff).
    """

    z: npt.NDArray[np.float32]
    factor: npt.NDArray[np.float32]
    gate: npt.NDArray[np.float32]
    gate_bias: npt.NDArray[np.float32]
    up: npt.NDArray[np.float32]
    up_bias: npt.NDArray[np.float32]
    w2: npt.NDArray[np.float32]


class Rule(NamedTuple):
    """code, threshold: which f, and where it is zero. scale: of f(z), as dropout leaves it.
    penalty: the gradient of each |h|."""

    code: int
    threshold: float
    scale: np.float32
    penalty: np.float32


def _products(tokens: int, *, adds: bool) -> Any:
    """An intrinsic `f(y, index, at, v, i, d, out, h, g, k)`: for so many tokens m = index[at + t]

        out[at + t] = <y[m, :d], v[i, :d]>    and, if it adds,    g[k, :d] += h[at + t] y[m, :d]

    Both at once, as y comes from the second-level cache, whose reading is what either would wait
    for: 1.6x. y: (., d) and v: float32, or bfloat16 in uint16; out, h, g: float32.
    """

    @intrinsic
    def kernel(
        _: Any, y: Any, index: Any, at: Any, v: Any, i: Any, d: Any, out: Any, h: Any, g: Any,
        k: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Emitter(context, builder, signature, args)
            b, each = e.b, [e.b.add(args[2], I64(t)) for t in range(tokens)]
            numbers = [b.sext(b.load(b.gep(e.array(1)[0], [q])), I64) for q in each]
            rows = [e.row(*e.array(0), m) for m in numbers]
            value, into = e.row(*e.array(3), args[4]), e.row(*e.array(8), args[9])
            factors = [b.load(b.gep(e.array(7)[0], [q])) for q in each] if adds else []
            wide = [e.splat(factor) for factor in factors]

            def step(j: Any, sums: list[Any], chains: int) -> list[Any]:
                for c in range(chains):
                    at = b.add(j, I64(c * LANES))
                    weights, total = e.load(value, at), e.load(into, at) if adds else None
                    for t, row in enumerate(rows):
                        k, entries = t * _CHAINS + c, e.load(row, at)
                        sums[k] = e.fma(weights, entries, sums[k])
                        if adds:
                            total = e.fma(wide[t], entries, total)
                    if adds:
                        e.store(total, into, at)
                return sums

            def single(j: Any, sums: list[Any]) -> list[Any]:
                weight, place = e.load_one(value, j), b.gep(into, [j])
                for t, row in enumerate(rows):
                    entry = e.load_one(row, j)
                    sums[t] = e.fma(weight, entry, sums[t])
                    if adds:
                        b.store(e.fma(factors[t], entry, b.load(place)), place)
                return sums

            d, begin = args[5], [ZEROS] * (tokens * _CHAINS)
            j, *sums = e.loop(I64(0), d, _CHAINS * LANES, begin, lambda j, s: step(j, s, _CHAINS))
            j, *sums = e.loop(j, d, LANES, sums, lambda j, s: step(j, s, 1))
            pairs = zip(sums[::_CHAINS], sums[1::_CHAINS], strict=True)
            totals = [e.total(b.fadd(first, second)) for first, second in pairs]
            _, *totals = e.loop(j, d, 1, totals, single)
            for q, total in zip(each, totals, strict=True):
                b.store(total, b.gep(e.array(6)[0], [q]))
            return context.get_dummy_value()

        n = types.intp
        return types.void(y, index, n, v, n, n, out, h, g, n), generate

    return kernel


_both_4, _both_1 = _products(4, adds=True), _products(1, adds=True)
_dots_4, _dots_1 = _products(4, adds=False), _products(1, adds=False)


@kernel()
def _multiply(y: Any, token: Any, first: int, last: int, v: Any, i: int, out: Any, h: Any, g: Any,
              k: int, adds: bool) -> None:  # fmt: skip
    """`_products` for a part of a neuron's tokens, four at a time: they share what is read of v."""
    d, q = y.shape[1], first
    while q + 4 <= last:
        if adds:
            _both_4(y, token, q, v, i, d, out, h, g, k)
        else:
            _dots_4(y, token, q, v, i, d, out, h, g, k)
        q += 4
    while q < last:
        if adds:
            _both_1(y, token, q, v, i, d, out, h, g, k)
        else:
            _dots_1(y, token, q, v, i, d, out, h, g, k)
        q += 1


@kernel()
def _gather(b: int, start: Any, offset: Any, neuron: Any, ends: Any) -> Any:
    """A block's pairs, neuron by neuron, token by token: their tokens, and where they are listed.

    ends: (BLOCK,), becomes where each neuron's end.
    """
    tokens, base = offset.shape[0], b * BLOCK
    ends[:] = 0
    total = 0
    for m in range(tokens):
        for p in range(start[m] + offset[m, b], start[m] + offset[m, b + 1]):
            ends[neuron[p] - base] += 1
    for r in range(BLOCK):
        total += ends[r]
        ends[r] = total - ends[r]
    token, place = np.empty(total, np.int32), np.empty(total, np.int64)
    for m in range(tokens):
        for p in range(start[m] + offset[m, b], start[m] + offset[m, b + 1]):
            q = ends[neuron[p] - base]
            token[q], place[q] = m, p
            ends[neuron[p] - base] = q + 1
    return token, place


@kernel()
def _add(rows: Any, token: Any, weight: Any, first: int, last: int, into: Any, i: int) -> None:
    d = rows.shape[1]
    for left in range(0, d, STRIP):
        width = min(STRIP, d - left)
        add_list(into, i, left, rows, left, width, token, weight, first, last, False)


@kernel()
def _sums(ends: Any, numbers: Any, base: int, into: Any) -> None:
    """A bias' gradient: the sum of a neuron's numbers."""
    low = 0
    for r in range(min(BLOCK, into.shape[0] - base)):
        total = 0.0
        for q in range(low, ends[r]):
            total += np.float64(numbers[q])
        into[base + r], low = total, ends[r]


@kernel()
def _numbers(pairs: Any, rule: Any, place: Any) -> Any:
    """Of a block's pairs: scale f(z), h, and what dh has to be multiplied with to give dz."""
    total, gated = place.shape[0], pairs.factor.shape[0] > 0
    value, slope = np.empty(total, np.float32), np.empty(total, np.float32)
    h = np.empty(total if gated else 0, np.float32)
    for q in range(total):
        z = as_float(pairs.z[place[q]])
        value[q] = rule.scale * value_of(rule.code, rule.threshold, z)
        slope[q] = rule.scale * slope_of(rule.code, rule.threshold, z)
        if gated:
            factor = pairs.factor[place[q]]
            h[q] = value[q] * factor
            slope[q] *= factor
    return value, h if gated else value, slope


@kernel()
def _penalise(h: Any, penalty: Any, first: int, last: int, dh: Any) -> None:
    """Adds the gradient of penalty |h|."""
    for q in range(first, last):
        if h[q] > 0:
            dh[q] += penalty
        elif h[q] < 0:
            dh[q] -= penalty


@kernel()
def _go_back(dy: Any, token: Any, first: int, last: int, values: Any, r: int, dh: Any, h: Any,
             sums: Any, totals: Any, begun: Any) -> None:  # fmt: skip
    """dh = <dy, v> and, if there is room for it, sums[r] += h dy, over some of a neuron's tokens.

    begun: (BLOCK,), how many pairs each sum holds. A full one is added to the totals, if there are
    any, and begins anew.
    """
    low, adds, folds = first, sums.shape[0] > 0, totals.shape[0] > 0
    while low < last:
        stop = min(low + _CHAIN - begun[r], last) if folds else last
        _multiply(dy, token, low, stop, values, r, dh, h, sums, r, adds)
        begun[r] += stop - low
        if folds and begun[r] == _CHAIN:
            _fold(sums, totals, r, begun)
        low = stop


@kernel()
def _fold(sums: Any, totals: Any, r: int, begun: Any) -> None:
    for j in range(sums.shape[1]):
        totals[r, j] += sums[r, j]
        sums[r, j] = 0
    begun[r] = 0


@kernel()
def _room_for_sums(wanted: bool, ends: Any, width: int) -> Any:
    """Zeros for a block's sums, and for their totals if some neuron has more pairs than a chain."""
    longest, low = 0, 0
    for r in range(BLOCK):
        longest, low = max(longest, ends[r] - low), ends[r]
    sums = np.zeros((BLOCK if wanted else 0, width), np.float32)
    return sums, np.zeros((BLOCK if wanted and longest > _CHAIN else 0, width), np.float32)


@kernel()
def _scatter(numbers: Any, place: Any, into: Any) -> None:
    """into[place] = numbers, if it is wanted."""
    if into.shape[0] > 0:
        for q in range(place.shape[0]):
            into[place[q]] = numbers[q]


@kernel()
def _clear(rows: Any, base: int, count: int) -> Any:
    """Zeros for a block's neurons; whether they are wanted."""
    if rows.shape[0] > 0:
        rows[base : base + count, :] = 0
    return rows.shape[0] > 0


@kernel()
def _block(b: int, who: int, pairs: Any, rule: Any, wanted: Any) -> None:
    """All gradients of one block of neurons."""
    (tokens, d), d_ff = pairs.dy.shape, pairs.w2.shape[1]
    base, count = b * BLOCK, min(BLOCK, d_ff - b * BLOCK)
    ends, cursor = np.empty(BLOCK, np.int64), np.zeros(BLOCK, np.int64)
    token, place = _gather(b, pairs.start, pairs.offset, pairs.neuron, ends)
    cursor[1:] = ends[:-1]
    value, h, slope = _numbers(pairs, rule, place)
    dh, dfactor = np.empty(place.shape[0], np.float32), np.empty(place.shape[0], np.float32)
    values = np.empty((BLOCK, d + _PAD), np.float32)
    turn(pairs.w2, 0, base, d, count, values, 0, 0)
    sums, totals = _room_for_sums(wanted.w2.shape[0] > 0, ends, d + _PAD)
    begun = np.zeros(BLOCK, np.int64)
    with_gate, with_up = _clear(wanted.gate, base, count), _clear(wanted.up, base, count)
    length = max(TOKEN_BYTES // (8 * d), _LEAST_TOKENS)
    for first in range(0, tokens, length):
        for r in range(count):
            low = end = cursor[r]
            while end < ends[r] and token[end] < first + length:
                end += 1
            cursor[r] = end
            _go_back(pairs.dy, token, low, end, values, r, dh, h, sums, totals, begun)
            if rule.penalty != 0:
                _penalise(h, rule.penalty, low, end, dh)
            for q in range(low, end):
                dfactor[q] = value[q] * dh[q]
                # Where the slope is zero torch takes a zero, whatever dh is.
                dh[q] = slope[q] * dh[q] if slope[q] != 0 else np.float32(0.0)
            if with_gate:
                _add(pairs.x, token, dh, low, end, wanted.gate, base + r)
            if with_up:
                _add(pairs.x, token, dfactor, low, end, wanted.up, base + r)
    _scatter(dh, place, wanted.z)
    _scatter(dfactor, place, wanted.factor)
    _sums(ends, dh, base, wanted.gate_bias)
    _sums(ends, dfactor, base, wanted.up_bias)
    if totals.shape[0] > 0:
        for r in range(count):
            _fold(sums, totals, r, begun)
        turn(totals, 0, 0, count, d, wanted.w2, 0, base)
    elif sums.shape[0] > 0:
        turn(sums, 0, 0, count, d, wanted.w2, 0, base)


@kernel()
def run(start: Any, offset: Any, neuron: Any, z: Any, factor: Any, x: Any, dy: Any, w2: Any,
        code: int, threshold: float, scale: Any, penalty: Any, dz: Any, dfactor: Any, gate: Any,
        gate_bias: Any, up: Any, up_bias: Any, dw2: Any, team: Any) -> None:  # fmt: skip
    """Writes the gradients that are wanted: the fields of `Pairs`, of `Rule`, of `Wanted`."""
    pairs = Pairs(start, offset, neuron, z, factor, x, dy, w2)
    rule = Rule(code, threshold, scale, penalty)
    wanted = Wanted(dz, dfactor, gate, gate_bias, up, up_bias, dw2)
    spread(_block, team, offset.shape[1] - 1, (pairs, rule, wanted))


@kernel()
def _factors(b: int, who: int, start: Any, offset: Any, neuron: Any, x: Any, rows: Any, bias: Any,
             factor: Any) -> None:  # fmt: skip
    base, ends = b * BLOCK, np.empty(BLOCK, np.int64)
    token, place = _gather(b, start, offset, neuron, ends)
    found, low = np.empty(token.shape[0], np.float32), 0
    for r in range(min(BLOCK, rows.shape[0] - base)):
        _multiply(x, token, low, ends[r], rows, base + r, found, found, bias, 0, False)
        for q in range(low, ends[r]):
            factor[place[q]] = found[q] + bias[0, base + r]
        low = ends[r]


@kernel()
def factors(start: Any, offset: Any, neuron: Any, x: Any, rows: Any, bias: Any, factor: Any,
            team: Any) -> None:  # fmt: skip
    """factor[p] = <rows[i], x[m]> + bias[i] for each listed pair: (n,) float32, of gated layers.

    rows: (d_ff, d) float32, or bfloat16 in uint16; bias: (1, d_ff) float32.
    """
    arguments = (start, offset, neuron, x, rows, bias, factor)
    spread(_factors, team, offset.shape[1] - 1, arguments)
