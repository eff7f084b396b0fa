"""Sums of value rows, strip by strip of columns: what the many-token kernels end with.

As `rows`, but the sums of a strip stand in an array of their own: strips of the output itself would
compete with those of the values for a part of the cache's sets. And nothing is prefetched: a block
of values stays in the second-level cache while many tokens pass by.
"""

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from reluctant.kernels.vector import I64, LANES, Emitter

STRIP = 256  # columns, whose sums fit in 16 registers
_SEGMENT = 32  # rows a chain: long chains of additions lose accuracy, short ones time

_F32 = ir.FloatType()
_ZEROS = ir.Constant(ir.VectorType(_F32, LANES), [0.0] * LANES)


def _add(vectors: int) -> Any:
    """An intrinsic `f(sums, k, c, values, b, index, weight, start, stop)`:

        sums[k, c : c + w] += sum over p in start..stop of weight[p] * values[index[p], b : b + w]

    w = 16 * vectors columns (0 vectors: a single one), each of them one chain of multiply-adds from
    zero, in list order: its bits do not depend on how the columns are divided. Arrays are float32,
    index int32.
    """

    @intrinsic
    def kernel(
        _: Any, sums: Any, k: Any, c: Any, values: Any, b: Any, index: Any, weight: Any,
        start: Any, stop: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Emitter(context, builder, signature, args)
            to = builder.gep(e.row(*e.array(0), args[1]), [args[2]])
            values_data, width = e.array(3)
            index_data, weight_data = e.array(5)[0], e.array(6)[0]
            offsets = [I64(v * LANES) for v in range(vectors)]

            def body(p: Any, totals: list[Any]) -> list[Any]:
                i = builder.sext(builder.load(builder.gep(index_data, [p])), I64)
                row = builder.gep(e.row(values_data, width, i), [args[4]])
                one = builder.load(builder.gep(weight_data, [p]))
                if not vectors:
                    return [e.fma(one, builder.load(row), totals[0])]
                all_ = e.splat(one)
                pairs = zip(offsets, totals, strict=True)
                return [e.fma(all_, e.load(row, offset), total) for offset, total in pairs]

            zeros = [_ZEROS] * vectors or [_F32(0.0)]
            _, *totals = e.loop(args[7], args[8], 1, zeros, body)
            if not vectors:
                builder.store(builder.fadd(builder.load(to), totals[0]), to)
            for offset, total in zip(offsets, totals, strict=bool(vectors)):
                e.store(builder.fadd(e.load(to, offset), total), to, offset)
            return context.get_dummy_value()

        n = types.intp
        return types.void(sums, n, n, values, n, index, weight, n, n), generate

    return kernel


_add_strip, _add_vector, _add_column = _add(STRIP // LANES), _add(1), _add(0)


@njit(nogil=True, cache=True, error_model="numpy")
def add_list(sums: Any, k: int, values: Any, left: int, width: int, index: Any, weight: Any,
             start: int, stop: int) -> None:  # fmt: skip
    """sums[k, :width] += sum over p in start..stop of weight[p] * values[index[p], left:][:width].

    The width is at most STRIP. The order of each column's additions depends on the list only.
    """
    for first in range(start, stop, _SEGMENT):
        last = min(first + _SEGMENT, stop)
        c = 0
        if width == STRIP:
            _add_strip(sums, k, 0, values, left, index, weight, first, last)
            c = STRIP
        while c + LANES <= width:
            _add_vector(sums, k, c, values, left + c, index, weight, first, last)
            c += LANES
        while c < width:
            _add_column(sums, k, c, values, left + c, index, weight, first, last)
            c += 1
