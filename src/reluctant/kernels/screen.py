"""The certificate for many tokens at once: x in bytes, sketch times bytes, candidates as bits.

The few-token kernel reads the sketch once for every few tokens; here a group of 64 neurons stays in
the nearer caches while a whole block of tokens passes by, and the processor's byte products (VNNI)
make 64 multiplications an instruction. x comes as x^ = step (X - 128) with bytes X. The sum
S = sum_j q_j (X_j - 128) is exact: it is below 2^31 for d < 2^16, and what the additions wrap round
on their way (they start at -128 sum_j q_j) they wrap back.

**The bound**, in the notation of the lemma in `reluctant.sketch`, which it extends. If

    s (step S) + (b + gamma_{d+8} |b|) + (N radius + loss ||k^||) < t    in float64, and
    2^-40 <= N < inf,  N max ||k|| < 2^125,  |b| < 2^126,  loss >= ||x - x^||,

then every float32 evaluation of z gives a finite value <= t.

*Proof.* s step S = <k^, x^>, so in place of the lemma's (1) it is off <k^, x> by |<k^, x - x^>|,
which is at most ||k^|| loss. (2), (3) and (4) stay. (5): the dozen float64 steps err by less than
2^-49 (||k^|| (N + loss) + |b| + N radius) together, with loss <= 2 N as X is about the nearest to
x; that is a small part of what the radius and gamma_{d+8} hold in reserve. (6): N max ||k|| < 2^125
and |b| < 2^126 keep every partial sum of z below 2^127. []

An x that breaks a condition has N = inf, a bias that does an infinite sum, and a row that is not to
be certified an infinite radius: what is infinite or NaN is not below t, hence a candidate.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from reluctant.kernels import integer, words
from reluctant.kernels.bound import sketch_room
from reluctant.kernels.candidates import HUGE
from reluctant.kernels.compile import kernel
from reluctant.kernels.lanes import GROUP
from reluctant.kernels.sums import lost, usable_norm
from reluctant.kernels.vector import I32, I64, LANES, Emitter
from reluctant.kernels.words import plain_pass, to_words, top_of, word_pass

BYTES = integer.CAPABILITY == "avx512vnni"  # x in bytes, elsewhere in words
MIDDLE = 128 if BYTES else 0
# Tokens: of bytes their sums, 4 vectors each, and the weights fill the registers.
AT_ONCE = 6 if BYTES else words.AT_ONCE
_DIGIT = np.uint8 if BYTES else np.int16

_SUMS = ir.VectorType(I32, LANES)
_WIDE = ir.VectorType(ir.DoubleType(), LANES)


class Integers(NamedTuple):
    """x as the screen uses it; columns padded to the sketch's, tokens to a multiple of AT_ONCE.

    digits: (tokens, padded d), x ~ step (digits - MIDDLE): uint8 for byte products, else int16 in
    the order of `words`; norm, step, loss: (tokens,) float64, the lemma's N (infinite where nothing
    may be certified), step and loss; huge: (tokens,) bool, whether a product might overflow.
    """

    digits: npt.NDArray[Any]
    norm: npt.NDArray[np.float64]
    step: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    huge: npt.NDArray[np.bool_]


@kernel()
def room_for_integers(tokens: int, padded_d: int) -> Any:
    """The arrays of `Integers`, empty."""
    padded = -(-tokens // AT_ONCE) * AT_ONCE
    digits = np.empty((padded, padded_d), _DIGIT)
    norm, step, loss = np.empty(padded), np.empty(padded), np.empty(padded)
    return digits, norm, step, loss, np.zeros(padded, np.bool_)


@kernel(reordered=True)
def _to_bytes(x: Any, step: float, x8: Any) -> Any:
    """Writes x as bytes; gives the sum of the squared losses, in float64."""
    inverse = np.float32(1.0 / step)
    for j in range(x.shape[0]):  # to the nearest for tightness only: the proof takes any bytes
        x8[j] = np.uint8(np.int32(np.rint(x[j] * inverse)) + np.int32(MIDDLE))
    total = 0.0
    for j in range(x.shape[0]):
        off = np.float64(x[j]) - step * np.float64(np.int32(x8[j]) - np.int32(MIDDLE))
        total += off * off
    return total


@kernel()
def _largest(x: Any) -> Any:
    """The largest |x_j| of finite x. As integers, whose maximum LLVM takes vector by vector."""
    bits, largest = x.view(np.int32), np.int32(0)
    for j in range(bits.shape[0]):
        largest = max(largest, bits[j] & np.int32(0x7FFFFFFF))
    found = np.empty(1, np.int32)
    found[0] = largest
    return found.view(np.float32)[0]


@kernel()
def to_integers(m: int, x: Any, max_norm: float, into: Any) -> None:
    """Fills token m of `into`, an `Integers`, from x, (d,) float32."""
    d = x.shape[0]
    norm, into.huge[m] = usable_norm(x, max_norm)
    into.digits[m, :] = MIDDLE
    into.norm[m], into.step[m], into.loss[m] = norm, 0.0, 0.0
    if norm < np.inf:
        step = np.float64(_largest(x)) / (127 if BYTES else top_of(into.digits.shape[1]))
        if BYTES:
            squared = _to_bytes(x, step, into.digits[m, :d])
        else:
            squared = to_words(x, step, into.digits[m])
        into.step[m] = step
        into.loss[m] = lost(squared, norm)


@kernel()
def group_terms(g: int, layer: Any, rule: Any, start: Any, terms: Any) -> Any:
    """What the bound needs of the neurons of group g, and a bit for each that there is.

    start: (64,) int32, the value that sums begin with; terms: (4, 64) float64, s, b + slack |b|,
    radius and ||k^||.
    """
    first, d_ff = g * GROUP, layer.scale.shape[0]
    present = min(GROUP, d_ff - first)
    start[:] = 0
    terms[:] = 0
    for r in range(present):
        i = first + r
        bias = np.float64(layer.bias[i])
        start[r] = -MIDDLE * layer.row_sum[i]
        terms[0, r] = layer.scale[i]
        # Of a gated layer the factor, too: an infinite one makes NaN of a zero.
        tame = abs(bias) < HUGE and (not rule.gated or abs(layer.factor_bias[i]) < HUGE)
        terms[1, r] = bias + rule.slack * abs(bias) if tame else np.inf
        terms[2, r] = layer.radius[i]
        terms[3, r] = layer.own_norm[i]
    return ~np.uint64(0) >> np.uint64(GROUP - present)


@intrinsic
def _byte_products(_: Any, q: Any, g: Any, x8: Any, m: Any, start: Any, sums: Any, to: Any) -> Any:
    """sums[to + t, :] = start + sum_j q[g, ., :, j] x8[m + t, j], for AT_ONCE tokens t.

    q: (groups, d / 4, 64, 4) int8; x8: (tokens, d) uint8; d: a multiple of 64; start: (64,) int32;
    sums: (., 64) int32.
    """
    vectors = GROUP // LANES

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args)
        b = e.b
        x_data, x_width = e.array(2)
        group = e.row(e.array(0)[0], b.mul(x_width, I64(GROUP)), args[1])
        x_rows = [e.row(x_data, x_width, args[3], t) for t in range(AT_ONCE)]
        start_data, (sums_data, width) = e.array(4)[0], e.array(5)
        kind, name = ir.FunctionType(_SUMS, [_SUMS] * 3), "llvm.x86.avx512.vpdpbusd.512"
        product = cgutils.get_or_insert_function(b.module, kind, name)

        def vector(pointer: Any, offset: Any) -> Any:
            return b.bitcast(b.gep(pointer, [offset]), _SUMS.as_pointer())

        def four(pointer: Any, j: Any) -> Any:  # bytes, to every lane
            return e.splat(b.load(b.bitcast(b.gep(pointer, [j]), I32.as_pointer()), align=4))

        def step(j: Any, totals: list[Any]) -> list[Any]:
            for u in (0, 4):
                column = b.add(j, I64(u))
                at = b.mul(column, I64(GROUP))
                weights = [
                    b.load(vector(group, b.add(at, I64(4 * LANES * v))), align=4)
                    for v in range(vectors)
                ]
                for t, row in enumerate(x_rows):
                    bytes_ = four(row, column)
                    for v, w in enumerate(weights):
                        k = t * vectors + v
                        totals[k] = b.call(product, [totals[k], bytes_, w])
            return totals

        begin = [b.load(vector(start_data, I64(LANES * v)), align=4) for v in range(vectors)]
        _, *totals = e.loop(I64(0), x_width, 8, begin * AT_ONCE, step)
        for t in range(AT_ONCE):
            row = e.row(sums_data, width, args[6], t)
            for v in range(vectors):
                b.store(totals[t * vectors + v], vector(row, I64(LANES * v)), align=4)
        return context.get_dummy_value()

    n = types.intp
    return types.void(q, n, x8, n, start, sums, n), generate


if BYTES:
    _products = _byte_products
elif integer.available():
    _word_products = word_pass(AT_ONCE, 2, from_memory=False)

    @kernel()
    def _products(q: Any, g: int, x: Any, m: int, start: Any, sums: Any, to: int) -> None:
        _word_products(q, g, x, m, sums, to, 0)
else:  # the engine does not screen there: so that the same tests run everywhere
    _plain_products = plain_pass(AT_ONCE)

    @kernel()
    def _products(q: Any, g: int, x: Any, m: int, start: Any, sums: Any, to: int) -> None:
        _plain_products(q, g, x, m, sums, to, 0)


@kernel()
def products(g: int, first: int, last: int, digits: Any, q: Any, start: Any, sums: Any) -> None:
    """sums[m - first, :] = `start` + group g's products with token m, for m in first..last.

    In steps of AT_ONCE tokens: sums has rows enough for the last one.
    """
    for m in range(first, last, AT_ONCE):
        _products(q, g, digits, m, start, sums, m - first)


@intrinsic
def kept(
    _: Any, sums: Any, m: Any, terms: Any, step: Any, norm: Any, loss: Any, threshold: Any
) -> Any:
    """64 bits: which neurons of a group are not certified zeros for the token of sums[m, :].

    sums: (., 64) int32; terms: (4, 64) float64, of `group_terms`; the rest float64.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args)
        b = e.b
        sums_data, width = e.array(0)
        row, (terms_data, terms_width) = e.row(sums_data, width, args[1]), e.array(2)

        def load(pointer: Any, offset: int, kind: Any) -> Any:
            return b.load(b.bitcast(b.gep(pointer, [I64(offset)]), kind.as_pointer()), align=4)

        step_, norm_, loss_, threshold_ = (e.splat(a) for a in args[3:])
        rows = [e.row(terms_data, terms_width, I64(k)) for k in range(4)]
        bits = I64(0)
        for part in range(GROUP // LANES):
            at = part * LANES
            scale, bias, radius, own = (load(r, at, _WIDE) for r in rows)
            total = b.fmul(b.sitofp(load(row, at, _SUMS), _WIDE), step_)
            room = sketch_room(b, norm_, radius, loss_, own)
            bound = b.fadd(b.fadd(b.fmul(total, scale), bias), room)
            # "Not below" is true for NaN, wherever it comes from.
            found = b.fcmp_unordered(">=", bound, threshold_)
            lanes = b.zext(b.bitcast(found, ir.IntType(LANES)), I64)
            bits = b.or_(bits, b.shl(lanes, I64(at)))
        return bits

    f, n = types.float64, types.intp
    return types.uint64(sums, n, terms, f, f, f, f), generate
