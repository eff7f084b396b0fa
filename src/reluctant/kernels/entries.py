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


def rounded(b: Any, value: Any, dtype: Any) -> Any:
    """Emits: a float32 as the number that an array of this dtype holds, to nearest even."""
    if dtype == types.int16:
        return b.fptrunc(value, F16)
    if dtype != types.uint16:
        return value
    bits = b.bitcast(value, I32)
    odd = b.and_(b.lshr(bits, I32(16)), I32(1))
    nearest = b.add(bits, b.add(odd, I32(0x7FFF)))
    quiet = I32(0x7FC00000)  # rounding could turn a NaN's bits into another number's
    nearest = b.select(b.fcmp_unordered("uno", value, value), quiet, nearest)
    return b.trunc(b.lshr(nearest, I32(16)), I16)


@intrinsic
def put_rounded(_: Any, out: Any, m: Any, j: Any, value: Any) -> Any:
    """out[m, j] = value, a float32; into an array of uint16 as bfloat16, of int16 as float16."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args)
        at = builder.gep(e.row(*e.array(0), args[1]), [args[2]])
        builder.store(rounded(builder, args[3], signature.args[0].dtype), at)
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


@intrinsic
def pointer(_: Any, address: Any, like: Any) -> Any:
    """An address as a pointer to numbers of a type, or of the one that an array holds."""
    kind = types.CPointer(like.dtype)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(kind))

    return kind(types.int64, like), generate
