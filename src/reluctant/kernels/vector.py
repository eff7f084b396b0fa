"""LLVM building blocks of the kernels, vector by vector.

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
F32, F16 = ir.FloatType(), ir.HalfType()
_VF = ir.VectorType(F32, LANES)
_VI16 = ir.VectorType(I16, LANES)
_VF16 = ir.VectorType(F16, LANES)
_VI32 = ir.VectorType(I32, LANES)
_SIXTEENS = ir.Constant(_VI32, [16] * LANES)
ZEROS = ir.Constant(_VF, [0.0] * LANES)


class Emitter:
    """The few operations that the intrinsics below are made of."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self.context, self.b, self.signature, self.args = context, builder, signature, args

    def array(self, position: int) -> tuple[Any, Any]:
        """Data pointer of an array argument, and the length of its last axis.

        The numbers of int16 arrays are float16 ones, those of uint16 arrays bfloat16 ones.
        """
        kind = self.signature.args[position]
        array = self.context.make_array(kind)(self.context, self.b, self.args[position])
        if kind.dtype == types.int16:
            half = self.b.bitcast(array.data, F16.as_pointer())
            return half, cgutils.unpack_tuple(self.b, array.shape, kind.ndim)[-1]
        return array.data, cgutils.unpack_tuple(self.b, array.shape, kind.ndim)[-1]

    def is_short(self, position: int) -> bool:
        """Whether an array argument holds bfloat16 or float16."""
        return bool(self.signature.args[position].dtype in (types.uint16, types.int16))

    def row(self, data: Any, width: Any, index: Any, plus: int = 0) -> Any:
        return self.b.gep(data, [self.b.mul(self.b.add(index, I64(plus)), width)])

    def load(self, pointer: Any, offset: Any) -> Any:
        """16 numbers, as float32, from a row of them, of bfloat16 or of float16."""
        at = self.b.gep(pointer, [offset])
        if pointer.type.pointee == F16:
            raw = self.b.load(self.b.bitcast(at, _VF16.as_pointer()), align=2)
            return self.b.fpext(raw, _VF)
        if pointer.type.pointee == I16:
            raw = self.b.load(self.b.bitcast(at, _VI16.as_pointer()), align=2)
            return self.b.bitcast(self.b.shl(self.b.zext(raw, _VI32), _SIXTEENS), _VF)
        return self.b.load(self.b.bitcast(at, _VF.as_pointer()), align=4)

    def load_one(self, pointer: Any, offset: Any) -> Any:
        """One number, likewise."""
        value = self.b.load(self.b.gep(pointer, [offset]))
        if value.type == F16:
            return self.b.fpext(value, F32)
        if value.type == I16:
            return self.b.bitcast(self.b.shl(self.b.zext(value, I32), I32(16)), F32)
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
            vector = self.b.fadd(vector, self.b.shuffle_vector(vector, ZEROS, mask))
        return self.b.extract_element(vector, I32(0))

    def splat(self, scalar: Any) -> Any:
        """A number of any kind, 16 times."""
        undefined = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
        single = self.b.insert_element(undefined, scalar, I32(0))
        return self.b.shuffle_vector(single, undefined, ir.Constant(_VI32, [0] * LANES))

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
