"""Products of the sketch with x, 64 neurons side by side.

The sketch stands as (d_ff / 64, d / 4, 64, 4) int8: four columns of 64 neurons are 256 bytes on
end, four vectors of 16 neurons each, and a group of neurons is one stretch of memory, as the
processor's prefetcher likes it. x goes in four columns at a time, the same for all neurons. So each
neuron has a lane of its own: no sum across a vector is ever needed.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from reluctant.kernels.bound import bias_room, magnitude, sketch_room
from reluctant.kernels.vector import I32, I64, LANES, Emitter

GROUP = 64  # neurons side by side
QUAD = 4  # columns side by side: what one byte product takes
TILE = 64  # d is padded to a multiple of it
VECTORS = GROUP // LANES
_AHEAD = 4096  # bytes: the processor's own prefetcher stops at the end of a page

_VI32 = ir.VectorType(I32, LANES)
_VF32 = ir.VectorType(ir.FloatType(), LANES)
_VF64 = ir.VectorType(ir.DoubleType(), LANES)


class Lanes(Emitter):
    """What both passes have in common; their arguments are q, g, x, m, sums, to, c."""

    def weights(self, j: Any, vector: int) -> Any:
        """Columns j .. j + 3 (j: a multiple of 4) of 16 of the group's neurons, as 16 int32."""
        q_data, _ = self.array(0)
        start = self.b.mul(self.b.mul(self.args[1], self.array(2)[1]), I64(GROUP))
        offset = self.b.add(self.b.mul(j, I64(GROUP)), I64(vector * LANES * QUAD))
        at = self.b.gep(q_data, [self.b.add(start, offset)])
        # From memory on two threads 24 GB/s instead of 15.
        self.prefetch(at, I64(_AHEAD))
        return self.b.load(self.b.bitcast(at, _VI32.as_pointer()), align=1)

    def put(self, token: int, vector: int, value: Any) -> None:
        """16 neurons' float64 sums into sums[to + token, c:]."""
        data, width = self.array(4)
        row = self.row(data, width, self.args[5], token)
        start = self.b.add(self.args[6], I64(vector * LANES))
        at = self.b.bitcast(self.b.gep(row, [start]), _VF64.as_pointer())
        self.b.store(value, at, align=8)


def float_pass(tokens: int) -> Any:
    """An intrinsic `f(q, g, x, m, sums, to, c)`, in float32:

        sums[to + t, c + i] = <q_i, x_{m + t}>     for tokens t and the 64 neurons i of group g

    q: (groups, d / 4, 64, 4) int8; x: (n, d) float32; sums: (n, >= c + 64) float64; d: a multiple
    of 64. Two chains of additions a neuron, so that their latency does not set the pace.
    """
    chains = max(2 // tokens, 1)

    @intrinsic
    def kernel(_: Any, q: Any, g: Any, x: Any, m: Any, sums: Any, to: Any, c: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Lanes(context, builder, signature, args)
            x_data, x_width = e.array(2)
            x_rows = [e.row(x_data, x_width, args[3], t) for t in range(tokens)]
            zero = ir.Constant(_VF32, [0.0] * LANES)

            def step(j: Any, totals: list[Any]) -> list[Any]:
                quads = [e.weights(j, v) for v in range(VECTORS)]
                for column in range(QUAD):
                    at = e.b.add(j, I64(column))
                    columns = [e.splat(e.load_one(p, at)) for p in x_rows]
                    for v in range(VECTORS):
                        up = ir.Constant(_VI32, [24 - 8 * column] * LANES)
                        down = ir.Constant(_VI32, [24] * LANES)
                        byte = e.b.ashr(e.b.shl(quads[v], up), down)
                        weight = e.b.sitofp(byte, _VF32)
                        for t in range(tokens):
                            k = ((column % chains) * VECTORS + v) * tokens + t
                            totals[k] = e.fma(weight, columns[t], totals[k])
                return totals

            count = VECTORS * tokens
            _, *totals = e.loop(I64(0), x_width, QUAD, [zero] * (count * chains), step)
            for k in range(count):
                total = totals[k]
                for chain in range(1, chains):
                    total = e.b.fadd(total, totals[chain * count + k])
                e.put(k % tokens, k // tokens, e.b.fpext(total, _VF64))
            return context.get_dummy_value()

        n = types.intp
        return types.void(q, n, x, n, sums, n, n), generate

    return kernel


def byte_pass(tokens: int) -> Any:
    """The same in integers, exact: `f(q, g, planes, m, sums, to, c)`, for x in 16 bits.

    planes: (2 * tokens, d) uint8, of each token the high bytes, then the low ones. Gives
    sums[to + t, c + i] = sum_j q_ij (256 high_j + low_j). `vpdpbusd` multiplies 64
    unsigned by 64 signed bytes and adds them up in fours, in 32 bits, without saturation; LLVM
    forms none by itself.
    """

    @intrinsic
    def kernel(_: Any, q: Any, g: Any, planes: Any, m: Any, sums: Any, to: Any, c: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Lanes(context, builder, signature, args)
            x_data, x_width = e.array(2)
            first = e.b.shl(args[3], I64(1))
            x_rows = [e.row(x_data, x_width, first, k) for k in range(2 * tokens)]
            kind = ir.FunctionType(_VI32, [_VI32] * 3)
            name = "llvm.x86.avx512.vpdpbusd.512"
            product = cgutils.get_or_insert_function(e.b.module, kind, name)

            def quad(pointer: Any, j: Any) -> Any:
                at = e.b.bitcast(e.b.gep(pointer, [j]), I32.as_pointer())
                return e.splat(e.b.load(at, align=1))

            def step(j: Any, totals: list[Any]) -> list[Any]:
                columns = [quad(p, j) for p in x_rows]
                for v in range(VECTORS):
                    weights = e.weights(j, v)
                    for k, column in enumerate(columns):
                        at = v * len(columns) + k
                        totals[at] = e.b.call(product, [totals[at], column, weights])
                return totals

            zero = ir.Constant(_VI32, [0] * LANES)
            zeros = [zero] * (VECTORS * 2 * tokens)
            _, *totals = e.loop(I64(0), x_width, QUAD, zeros, step)
            scale = ir.Constant(_VF64, [256.0] * LANES)
            for k in range(VECTORS * tokens):
                high, low = (e.b.sitofp(total, _VF64) for total in totals[2 * k : 2 * k + 2])
                # Below 2^47: float64 holds it exactly.
                e.put(k % tokens, k // tokens, e.b.fadd(e.b.fmul(high, scale), low))
            return context.get_dummy_value()

        n = types.intp
        return types.void(q, n, planes, n, sums, n, n), generate

    return kernel


@intrinsic
def possible(
    _: Any, sums: Any, m: Any, start: Any, scale: Any, radius: Any, own_norm: Any, row_sum: Any,
    bias: Any, step: Any, middle: Any, norm: Any, loss: Any, slack: Any, threshold: Any, huge: Any,
) -> Any:  # fmt: skip
    """64 bits: which of the neurons start .. start + 63 the bound does not rule out.

        e = scale step (sums[m] - middle row_sum) + bias
        possible: not (e + norm radius + loss own_norm + slack |bias| < threshold and |e| < huge)

    in float64, so that NaN, wherever it comes from, is possible. sums: (m, n) float64; scale,
    radius, own_norm, bias: float32 (bias also in 16 bits, see `entries.as_float`); row_sum: int32.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e, b = Emitter(context, builder, signature, args), builder
        sums_row = e.row(*e.array(0), args[1])
        pointers = {k: e.array(k)[0] for k in (3, 4, 5, 6, 7)}
        step_, middle_, norm_, loss_, slack_, threshold_, huge_ = (
            e.splat(args[k]) for k in range(8, 15)
        )

        def wide(position: int, at: Any) -> Any:
            if position == 6:
                place = b.bitcast(b.gep(pointers[6], [at]), _VI32.as_pointer())
                return b.sitofp(b.load(place, align=4), _VF64)
            return b.fpext(e.load(pointers[position], at), _VF64)

        bits = I64(0)
        for part in range(VECTORS):
            at = b.add(args[2], I64(part * LANES))
            place = b.bitcast(b.gep(sums_row, [at]), _VF64.as_pointer())
            total = b.load(place, align=8)
            total = b.fmul(step_, b.fsub(total, b.fmul(middle_, wide(6, at))))
            bias_ = wide(7, at)
            estimate = b.fadd(b.fmul(wide(3, at), total), bias_)
            room = sketch_room(b, norm_, wide(4, at), loss_, wide(5, at))
            room = b.fadd(room, bias_room(b, slack_, bias_))
            ruled_out = b.and_(
                b.fcmp_ordered("<", b.fadd(estimate, room), threshold_),
                b.fcmp_ordered("<", magnitude(b, estimate), huge_),
            )
            lanes = b.zext(b.bitcast(b.not_(ruled_out), ir.IntType(LANES)), I64)
            bits = b.or_(bits, b.shl(lanes, I64(part * LANES)))
        return bits

    n, f = types.intp, types.float64
    arguments = (sums, n, n, scale, radius, own_norm, row_sum, bias, *[f] * 7)
    return types.uint64(*arguments), generate
