"""Single entries and rows of weights: float32, bfloat16 and float16; and reading ahead."""

from typing import Any

from numba import types
from numba.extending import intrinsic

from reluctant.kernels.vector import F16, F32, I16, I32, I64, Emitter


@intrinsic
def as_float(_: Any, value: Any) -> Any:
    """A number as float32: itself, a bfloat16 that is held in uint16, a float16 held in int16."""
    kind = value if value in (types.uint16, types.int16) else types.float32

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if kind == types.float32:
            return args[0]
        if kind == types.int16:
            return builder.fpext(builder.bitcast(args[0], F16), F32)
        return builder.bitcast(builder.shl(builder.zext(args[0], I32), I32(16)), F32)

    return types.float32(kind), generate


@intrinsic
def range_of(_: Any, array: Any) -> Any:
    """The number, in float32, from which on the kind of number that the array holds is infinite."""
    limit = 65520.0 if array.dtype == types.int16 else float("inf")

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return F32(limit)

    return types.float32(array), generate


@intrinsic
def put_rounded(_: Any, out: Any, m: Any, j: Any, value: Any) -> Any:
    """out[m, j] = value, a float32; into an array of uint16 as bfloat16, of int16 as float16, to
    nearest even."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args)
        at, value = builder.gep(e.row(*e.array(0), args[1]), [args[2]]), args[3]
        if signature.args[0].dtype == types.int16:
            value = builder.fptrunc(value, F16)
        elif e.is_short(0):
            bits = builder.bitcast(value, I32)
            odd = builder.and_(builder.lshr(bits, I32(16)), I32(1))
            rounded = builder.add(bits, builder.add(odd, I32(0x7FFF)))
            quiet = I32(0x7FC00000)  # rounding could turn a NaN's bits into another number's
            rounded = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
            value = builder.trunc(builder.lshr(rounded, I32(16)), I16)
        builder.store(value, at)
        return context.get_dummy_value()

    n = types.intp
    return types.void(out, n, n, types.float32), generate


@intrinsic
def prefetch_row(_: Any, rows: Any, i: Any, start: Any, stop: Any) -> Any:
    """Asks for rows[i, start:stop], of a one-dimensional array for rows[start:stop]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args)
        data, width = e.array(0)
        row = e.row(data, width, args[1]) if signature.args[0].ndim > 1 else data
        line = 64 * 8 // signature.args[0].dtype.bitwidth

        def step(j: Any, _: list[Any]) -> list[Any]:
            e.prefetch(row, j)
            return []

        e.loop(args[2], builder.add(args[3], I64(line - 1)), line, [], step)
        return context.get_dummy_value()

    n = types.intp
    return types.void(rows, n, n, n), generate
