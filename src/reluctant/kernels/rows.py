"""Weighted sums of value rows: what every kernel ends with."""

from typing import Any

from numba import types
from numba.extending import intrinsic

from reluctant.kernels.compile import kernel
from reluctant.kernels.vector import F32, I16, I64, LANES, ZEROS, Emitter

CHUNK = 128  # columns at a time of rows that come from memory
STRIP = 256  # and from the second-level cache: their sums fit in 16 registers
_AHEAD = 8  # rows: far enough for memory, near enough for the queue of outstanding reads
_SEGMENT = 32  # rows a chain: long chains of additions lose accuracy, short ones time


def _add_rows(vectors: int, ahead: int = 0) -> Any:
    """An intrinsic `f(sums, k, c, v, b, index, h, start, stop, end)`:

        sums[k, c : c + w] += sum over p in start..stop of h[p] * v[index[p], b : b + w]

    w = 16 * vectors columns (0 vectors: a single column). The sums stay in registers over the
    whole list: they are read and written once. Each column is one chain of multiply-adds in list
    order, from zero, so that its bits do not depend on how the columns are divided. ahead: how far
    on in the list, which goes on to `end`, rows are prefetched; 0: none.

    sums: (m, n) float32; v: (n, d) float32, bfloat16 in uint16, or float16 in int16;
    index: int32 or uint16; h: float32.
    """

    @intrinsic
    def kernel(
        _: Any, sums: Any, k: Any, c: Any, v: Any, b: Any, index: Any, h: Any, start: Any,
        stop: Any, end: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Emitter(context, builder, signature, args)
            to = e.b.gep(e.row(*e.array(0), args[1]), [args[2]])
            v_data, v_width = e.array(3)
            index_data, h_data = e.array(5)[0], e.array(6)[0]
            offsets = [I64(u * LANES) for u in range(vectors)]
            last = e.b.sub(args[9], I64(1))

            def piece(p: Any) -> Any:
                """Where the columns of the p-th row of the list begin."""
                raw = e.b.load(e.b.gep(index_data, [p]))
                i = (e.b.zext if raw.type == I16 else e.b.sext)(raw, I64)
                return e.b.gep(e.row(v_data, v_width, i), [args[4]])

            def body(p: Any, totals: list[Any]) -> list[Any]:
                row = piece(p)
                weight = e.b.load(e.b.gep(h_data, [p]))
                if not vectors:
                    return [e.fma(weight, e.load_one(row, I64(0)), totals[0])]
                if ahead:
                    later = e.b.add(p, I64(ahead))
                    later = e.b.select(e.b.icmp_signed("<", later, last), later, last)
                    far = piece(later)
                    for offset in offsets[:: 2 if e.is_short(3) else 1]:
                        e.prefetch(far, offset)
                weight = e.splat(weight)
                pairs = zip(offsets, totals, strict=True)
                return [e.fma(weight, e.load(row, offset), total) for offset, total in pairs]

            zeros = [ZEROS] * vectors or [F32(0.0)]
            _, *totals = e.loop(args[7], args[8], 1, zeros, body)
            if not vectors:
                e.b.store(e.b.fadd(e.b.load(to), totals[0]), to)
            for offset, total in zip(offsets, totals, strict=bool(vectors)):
                e.store(e.b.fadd(e.load(to, offset), total), to, offset)
            return context.get_dummy_value()

        n = types.intp
        return types.void(sums, n, n, v, n, index, h, n, n, n), generate

    return kernel


_add_chunk, _add_strip = _add_rows(CHUNK // LANES, _AHEAD), _add_rows(STRIP // LANES)
_add_vector, _add_column = _add_rows(1), _add_rows(0)


@kernel()
def add_list(sums: Any, k: int, c: int, values: Any, left: int, width: int, index: Any, weight: Any,
             start: int, stop: int, from_memory: bool) -> None:  # fmt: skip
    """sums[k, c:][:w] += sum over p in start..stop of weight[p] values[index[p], left:][:w].

    w, the width, is at most CHUNK for rows that come from memory, which are prefetched, and STRIP
    for others. The order of each column's additions depends on nothing but the list.
    """
    for first in range(start, stop, _SEGMENT):
        last = min(first + _SEGMENT, stop)
        j = 0
        if from_memory and width == CHUNK:
            _add_chunk(sums, k, c, values, left, index, weight, first, last, stop)
            j = width
        elif width == STRIP:
            _add_strip(sums, k, c, values, left, index, weight, first, last, stop)
            j = width
        while j + LANES <= width:
            _add_vector(sums, k, c + j, values, left + j, index, weight, first, last, stop)
            j += LANES
        while j < width:
            _add_column(sums, k, c + j, values, left + j, index, weight, first, last, stop)
            j += 1
