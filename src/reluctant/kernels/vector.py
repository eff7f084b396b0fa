"""LLVM building blocks of the kernels: dot products and sums of rows, vector by vector.

Why not plain loops: on many x86 machines LLVM's loop vectoriser prefers 256-bit registers and
needs `reassoc` to vectorise a sum at all, which leaves the order of the additions to the compiler.
Written out, the order is ours: it is the same for every row, thread and call, and NaN and infinity
behave as in IEEE 754. Vectors are 16 floats long; LLVM splits them where the machine's are shorter.

Arrays must be C-contiguous. Nothing here checks bounds.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F32 = ir.FloatType()
_VF = ir.VectorType(_F32, LANES)
_VI16 = ir.VectorType(I16, LANES)
_VI32 = ir.VectorType(I32, LANES)
_SIXTEENS = ir.Constant(_VI32, [16] * LANES)
_ZEROS = ir.Constant(_VF, [0.0] * LANES)


class Emitter:
    """The few operations that the intrinsics below are made of."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self.context, self.b, self.signature, self.args = context, builder, signature, args

    def array(self, position: int) -> tuple[Any, Any]:
        """Data pointer of an array argument, and the length of its last axis."""
        kind = self.signature.args[position]
        array = self.context.make_array(kind)(self.context, self.b, self.args[position])
        return array.data, cgutils.unpack_tuple(self.b, array.shape, kind.ndim)[-1]

    def is_short(self, position: int) -> bool:
        """Whether an array argument holds bfloat16 (as uint16)."""
        return bool(self.signature.args[position].dtype == types.uint16)

    def row(self, data: Any, width: Any, index: Any, plus: int = 0) -> Any:
        return self.b.gep(data, [self.b.mul(self.b.add(index, I64(plus)), width)])

    def load(self, pointer: Any, offset: Any) -> Any:
        """16 numbers from a row of float32 or, in uint16, bfloat16."""
        at = self.b.gep(pointer, [offset])
        if pointer.type.pointee == I16:
            raw = self.b.load(self.b.bitcast(at, _VI16.as_pointer()), align=2)
            return self.b.bitcast(self.b.shl(self.b.zext(raw, _VI32), _SIXTEENS), _VF)
        return self.b.load(self.b.bitcast(at, _VF.as_pointer()), align=4)

    def load_one(self, pointer: Any, offset: Any) -> Any:
        """One number, likewise."""
        value = self.b.load(self.b.gep(pointer, [offset]))
        if value.type == I16:
            return self.b.bitcast(self.b.shl(self.b.zext(value, I32), I32(16)), _F32)
        return value

    def prefetch(self, pointer: Any, offset: Any) -> None:
        """Asks for a cache line, into the second-level cache. Never faults."""
        at = self.b.bitcast(self.b.gep(pointer, [offset]), I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        function = cgutils.get_or_insert_function(self.b.module, kind, "llvm.prefetch.p0")
        self.b.call(function, [at, I32(0), I32(2), I32(1)])

    def store(self, value: Any, pointer: Any, offset: Any) -> None:
        at = self.b.gep(pointer, [offset])
        self.b.store(value, self.b.bitcast(at, _VF.as_pointer()), align=4)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        name = "llvm.fmuladd.v16f32" if x.type == _VF else "llvm.fmuladd.f32"
        kind = ir.FunctionType(x.type, [x.type] * 3)
        function = cgutils.get_or_insert_function(self.b.module, kind, name)
        return self.b.call(function, [x, y, z])

    def total(self, vector: Any) -> Any:
        """Sum of the 16 lanes, halves onto halves."""
        width = LANES
        while width > 1:
            width //= 2
            order = [i + width if i < width else i for i in range(LANES)]
            mask = ir.Constant(_VI32, order)
            vector = self.b.fadd(vector, self.b.shuffle_vector(vector, _ZEROS, mask))
        return self.b.extract_element(vector, I32(0))

    def splat(self, scalar: Any) -> Any:
        single = self.b.insert_element(ir.Constant(_VF, ir.Undefined), scalar, I32(0))
        mask = ir.Constant(_VI32, [0] * LANES)
        return self.b.shuffle_vector(single, ir.Constant(_VF, ir.Undefined), mask)

    def loop(self, start: Any, stop: Any, step: int, carried: list[Any], body: Any) -> list[Any]:
        """`for j in range(start, stop, step)` with carried values; whole steps only."""
        b = self.b
        before = b.block
        head, inside, after = (b.append_basic_block(n) for n in ("head", "body", "after"))
        b.branch(head)
        b.position_at_end(head)
        j = b.phi(I64)
        j.add_incoming(start, before)
        phis = []
        for value in carried:
            phi = b.phi(value.type)
            phi.add_incoming(value, before)
            phis.append(phi)
        following = b.add(j, I64(step))
        b.cbranch(b.icmp_signed("<=", following, stop), inside, after)
        b.position_at_end(inside)
        for phi, value in zip(phis, body(j, list(phis)), strict=True):
            phi.add_incoming(value, b.block)
        j.add_incoming(following, b.block)
        b.branch(head)
        b.position_at_end(after)
        return [j, *phis]


_CHAINS = 8


@intrinsic
def key_dot(_: Any, keys: Any, i: Any, x: Any, m: Any, d: Any, following: Any) -> Any:
    """The product of keys[i, :d] and x[m, :d], float32: eight vectors of sums, then the rest.

    keys: (n, d) float32, or bfloat16 in uint16; x: (m, >= d) float32. Row `following` of keys is
    prefetched on the way: rows that are read here and there wait for memory one by one otherwise.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args)
        key, column = (e.row(*e.array(k), args[k + 1]) for k in (0, 2))
        ahead = e.row(*e.array(0), args[5])
        line = 32 if e.is_short(0) else 16  # entries of a cache line

        def step(j: Any, sums: list[Any], count: int) -> list[Any]:
            for u in range(count):
                at = e.b.add(j, I64(u * LANES))
                if u * LANES % line == 0:
                    e.prefetch(ahead, at)
                sums[u] = e.fma(e.load(key, at), e.load(column, at), sums[u])
            return sums

        def single(j: Any, sums: list[Any]) -> list[Any]:
            return [e.fma(e.load_one(key, j), e.load_one(column, j), sums[0])]

        start, d_value = I64(0), args[4]
        j, *sums = e.loop(
            start, d_value, _CHAINS * LANES, [_ZEROS] * _CHAINS, lambda j, s: step(j, s, _CHAINS)
        )
        j, *sums = e.loop(j, d_value, LANES, sums, lambda j, s: step(j, s, 1))
        while len(sums) > 1:
            half = len(sums) // 2
            sums = [e.b.fadd(a, b) for a, b in zip(sums[:half], sums[half:], strict=True)]
        _, total = e.loop(j, d_value, 1, [e.total(sums[0])], single)
        return total

    n = types.intp
    return types.float32(keys, n, x, n, n, n), generate


_AHEAD = 8  # rows: far enough for memory, near enough for the queue of outstanding reads


def add_rows(vectors: int) -> Any:
    """An intrinsic `f(y, m, c, v, index, h, start, stop, end)`, the sum of rows of v, weighted:

        y[m, c : c + w] += sum over p in start..stop of h[p] * v[index[p], c : c + w]

    w = 16 * vectors columns (0 vectors: a single column). The sums stay in registers over the
    whole list: y is read and written once. Each column is one chain of multiply-adds in list order,
    from zero, so that its bits do not depend on how the columns are divided. Rows further on in the
    list, which goes on to `end`, are prefetched.

    y: (m, d) float32; v: (n, d) float32, or bfloat16 in uint16; index: int32; h: float32.
    """

    @intrinsic
    def kernel(
        _: Any, y: Any, m: Any, c: Any, v: Any, index: Any, h: Any, start: Any, stop: Any, end: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Emitter(context, builder, signature, args)
            y_data, y_width = e.array(0)
            v_data, v_width = e.array(3)
            index_data, h_data = e.array(4)[0], e.array(5)[0]
            column = args[2]
            y_row = e.b.gep(e.row(y_data, y_width, args[1]), [column])
            offsets = [I64(k * LANES) for k in range(vectors)]
            scalar = vectors == 0
            last = e.b.sub(args[8], I64(1))

            def piece(p: Any) -> Any:
                """Where the columns of the p-th row of the list begin."""
                i = e.b.sext(e.b.load(e.b.gep(index_data, [p])), I64)
                return e.b.gep(e.row(v_data, v_width, i), [column])

            def body(p: Any, sums: list[Any]) -> list[Any]:
                row = piece(p)
                weight = e.b.load(e.b.gep(h_data, [p]))
                if scalar:
                    return [e.fma(weight, e.load_one(row, I64(0)), sums[0])]
                later = e.b.add(p, I64(_AHEAD))
                ahead = piece(e.b.select(e.b.icmp_signed("<", later, last), later, last))
                for offset in offsets[:: 2 if e.is_short(3) else 1]:
                    e.prefetch(ahead, offset)
                weight = e.splat(weight)
                return [
                    e.fma(weight, e.load(row, o), s) for o, s in zip(offsets, sums, strict=True)
                ]

            zeros = [_F32(0.0)] if scalar else [_ZEROS] * vectors
            _, *sums = e.loop(args[6], args[7], 1, zeros, body)
            if scalar:
                e.b.store(e.b.fadd(e.b.load(y_row), sums[0]), y_row)
            else:
                for offset, value in zip(offsets, sums, strict=True):
                    e.store(e.b.fadd(e.load(y_row, offset), value), y_row, offset)
            return context.get_dummy_value()

        n = types.intp
        return types.void(y, n, n, v, index, h, n, n, n), generate

    return kernel


@intrinsic
def above(_: Any, z: Any, m: Any, c: Any, threshold: Any, lowest: Any) -> Any:
    """64 bits: which of z[m, c : c + 64] are not <= threshold, or are below `lowest`. NaN is.

    z: (m, n) float32; threshold, lowest: float32.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args)
        data, width = e.array(0)
        row = e.row(data, width, args[1])
        high, low = e.splat(args[3]), e.splat(args[4])
        bits = I64(0)
        for part in range(64 // LANES):
            values = e.load(row, e.b.add(args[2], I64(part * LANES)))
            found = e.b.or_(
                e.b.fcmp_unordered(">", values, high), e.b.fcmp_ordered("<", values, low)
            )
            lanes = e.b.zext(e.b.bitcast(found, ir.IntType(LANES)), I64)
            bits = e.b.or_(bits, e.b.shl(lanes, I64(part * LANES)))
        return bits

    n = types.intp
    return types.uint64(z, n, n, types.float32, types.float32), generate


def _of_bits(name: str, *more: Any) -> Any:
    @intrinsic
    def kernel(_: Any, bits: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(I64, [I64, *(ir.IntType(1) for _ in more)])
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(function, [args[0], *(ir.IntType(1)(bit) for bit in more)])

        return types.int64(types.uint64), generate

    return kernel


count_bits = _of_bits("llvm.ctpop.i64")
lowest_bit = _of_bits("llvm.cttz.i64", 0)
