"""Exact integer products of sketch rows with a 16-bit x, by the processor's byte products (VNNI).

LLVM forms no `vpdpbusd` by itself. It multiplies 64 unsigned by 64 signed bytes and adds them up in
fours, in 32 bits, without saturation: 64 sketch entries an instruction, where widening them to
float32 takes a dozen. x comes as two planes of unsigned bytes, so two products give it 16 bits, and
as the sums are exact, no rounding enters the bound, only what x loses in becoming 16 bits.
"""

import platform
from typing import Any

import numba
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from reluctant.kernels.vector import GROUP, I32, I64, TILE, Emitter

LONGEST = 2**16  # 127 * 255 * d stays below 2^31

_SUMS = ir.VectorType(I32, 16)


def available() -> bool:
    """Whether this processor has it, and Numba compiles for this processor."""
    if numba.config.CPU_NAME or numba.config.CPU_FEATURES:
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return bool(binding.get_host_cpu_features().get("avx512vnni", False))


def byte_dot(tokens: int) -> Any:
    """An intrinsic `f(q, g, planes, m, d)`: int64 products of group g's rows with tokens m.. of x.

    q: (groups, d / 64, 4, 64) int8; planes: (2 * tokens, d) uint8, of each token the high bytes,
    then the low ones; d: a multiple of 64. Gives 4 * tokens numbers sum_j q_j (256 high_j + low_j),
    row by row. The groups' layout is that of `vector.tile_dot`.
    """

    @intrinsic
    def kernel(_: Any, q: Any, g: Any, planes: Any, m: Any, d: Any) -> Any:
        count = 2 * tokens
        result = types.UniTuple(types.int64, GROUP * tokens)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Emitter(context, builder, signature, args)
            x_data, x_width = e.array(2)
            group = e.row(e.array(0)[0], e.b.mul(args[4], I64(GROUP)), args[1])
            first = e.b.shl(args[3], I64(1))
            x_rows = [e.row(x_data, x_width, first, k) for k in range(count)]
            kind = ir.FunctionType(_SUMS, [_SUMS, _SUMS, _SUMS])
            name = "llvm.x86.avx512.vpdpbusd.512"
            product = cgutils.get_or_insert_function(e.b.module, kind, name)

            def load(pointer: Any, j: Any) -> Any:
                at = e.b.bitcast(e.b.gep(pointer, [j]), _SUMS.as_pointer())
                return e.b.load(at, align=1)

            def tile(j: Any, sums: list[Any]) -> list[Any]:
                columns = [load(p, j) for p in x_rows]
                for r in range(GROUP):
                    weights = load(group, e.b.add(e.b.mul(j, I64(GROUP)), I64(r * TILE)))
                    for k in range(count):
                        at = r * count + k
                        sums[at] = e.b.call(product, [sums[at], columns[k], weights])
                return sums

            zeros = [ir.Constant(_SUMS, [0] * 16)] * (GROUP * count)
            _, *sums = e.loop(I64(0), args[4], TILE, zeros, tile)
            kind, name = ir.FunctionType(I32, [_SUMS]), "llvm.vector.reduce.add.v16i32"
            add_up = cgutils.get_or_insert_function(e.b.module, kind, name)
            totals = [e.b.sext(e.b.call(add_up, [s]), I64) for s in sums]
            pairs = zip(totals[::2], totals[1::2], strict=True)
            joined = [e.b.add(e.b.shl(high, I64(8)), low) for high, low in pairs]
            return context.make_tuple(builder, result, joined)

        return result(q, types.intp, planes, types.intp, types.intp), generate

    return kernel
