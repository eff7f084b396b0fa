"""Bounds of every logit from the int8 sketch of an output projection, for 1 to 16 rows of x."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from reluctant.kernels.bound import bias_room, magnitude, sketch_room
from reluctant.kernels.candidates import HUGE
from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import as_float
from reluctant.kernels.lanes import GROUP, QUAD
from reluctant.kernels.sums import Tokens, float_sums, integer_sums, take_tokens
from reluctant.kernels.team import spread
from reluctant.kernels.vector import F32, I32, LANES, Emitter

_PIECE = 8  # groups of 64 rows

_VF32 = ir.VectorType(F32, LANES)
_VF64 = ir.VectorType(ir.DoubleType(), LANES)
_VI32 = ir.VectorType(I32, LANES)


class Rows(NamedTuple):
    """The sketch of the rows, and their biases; all padded to whole groups.

    q: (groups, d / 4, 64, 4) int8; scale, radius, own_norm: (n,) float32; row_sum: (n,) int32;
    bias: (n,), of the weights' type.
    """

    q: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    radius: npt.NDArray[np.float32]
    own_norm: npt.NDArray[np.float32]
    row_sum: npt.NDArray[np.int32]
    bias: npt.NDArray[Any]


@intrinsic
def _put_bounds(
    _: Any, sums: Any, m: Any, start: Any, scale: Any, radius: Any, own_norm: Any, row_sum: Any,
    bias: Any, base: Any, step: Any, middle: Any, norm: Any, loss: Any, slack: Any, low: Any,
    up: Any,
) -> Any:  # fmt: skip
    """low[m, start : start + 64] and up[...]: every float32 evaluation of a logit lies between.

        e = scale step (sums[m] - middle row_sum) + base + bias
        room = norm radius + loss own_norm + slack |bias|

    in float64; the bounds in float32, rounded outward, infinite where e or the room is not finite
    or too large. sums: (m, 64) float64; base: <centre, x>.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e, b = Emitter(context, builder, signature, args), builder
        sums_row = e.row(*e.array(0), args[1])
        pointers = {k: e.array(k)[0] for k in (3, 4, 5, 6, 7)}
        low_row, up_row = (e.row(*e.array(k), args[1]) for k in (14, 15))
        base_, step_, middle_, norm_, loss_, slack_ = (e.splat(args[k]) for k in range(8, 14))

        def all_of(value: float) -> Any:
            return ir.Constant(_VF64, [value] * LANES)

        def wide(position: int, at: Any) -> Any:
            if position == 6:
                place = b.bitcast(b.gep(pointers[6], [at]), _VI32.as_pointer())
                return b.sitofp(b.load(place, align=4), _VF64)
            return b.fpext(e.load(pointers[position], at), _VF64)

        for part in range(GROUP // LANES):
            offset = ir.IntType(64)(part * LANES)
            at = b.add(args[2], offset)
            place = b.bitcast(b.gep(sums_row, [offset]), _VF64.as_pointer())
            total = b.fsub(b.load(place, align=8), b.fmul(middle_, wide(6, at)))
            bias_ = wide(7, at)
            estimate = b.fmul(wide(3, at), b.fmul(step_, total))
            estimate = b.fadd(b.fadd(estimate, base_), bias_)
            room = sketch_room(b, norm_, wide(4, at), loss_, wide(5, at))
            room = b.fadd(room, bias_room(b, slack_, bias_))
            known = b.and_(
                b.fcmp_ordered("<", magnitude(b, estimate), all_of(HUGE)),
                b.fcmp_ordered("<", room, all_of(HUGE)),
            )
            for row, operation, end in (
                (low_row, b.fsub, -np.inf),
                (up_row, b.fadd, np.inf),
            ):
                bound = operation(estimate, room)
                # More than rounding it to float32 takes back.
                outward = b.fmul(magnitude(b, bound), all_of(2.0**-23))
                outward = b.fadd(outward, all_of(2.0**-126))
                bound = b.select(known, operation(bound, outward), all_of(end))
                e.store(b.fptrunc(bound, _VF32), row, at)
        return context.get_dummy_value()

    n, f = types.intp, types.float64
    arguments = (sums, n, n, scale, radius, own_norm, row_sum, bias, *[f] * 6, low, up)
    return types.void(*arguments), generate


@kernel()
def _piece(k: int, who: int, tokens: Any, rows: Any, base: Any, slack: float, in_integers: bool,
           sums: Any, low: Any, up: Any) -> None:  # fmt: skip
    column = np.int64(0)
    for g in range(k * _PIECE, min((k + 1) * _PIECE, rows.q.shape[0])):
        if in_integers:
            integer_sums(g, tokens, rows.q, sums[who], column)
        else:
            float_sums(g, tokens, rows.q, sums[who], column)
        for m in range(low.shape[0]):
            _put_bounds(
                sums[who], m, g * GROUP, rows.scale, rows.radius, rows.own_norm, rows.row_sum,
                rows.bias, base[m], tokens.step[m], tokens.middle, tokens.norm[m], tokens.loss[m],
                slack, low, up,
            )  # fmt: skip


@kernel()
def bounds(
    x: Any, q: Any, scale: Any, radius: Any, own_norm: Any, row_sum: Any, bias: Any, centre: Any,
    max_norm: float, slack: float, in_integers: bool, low: Any, up: Any, team: Any,
) -> None:  # fmt: skip
    """low, up: what every float32 evaluation of <row, x> + bias lies between.

    x: (tokens, d), of the weights' type; q ... bias: `Rows`; centre: (d,) float32, what was taken
    from each row; max_norm: the largest norm of a row; low, up: (tokens, n) float32.
    """
    tokens = Tokens(*take_tokens(x, q.shape[1] * QUAD, max_norm, in_integers))
    base = np.zeros(x.shape[0])
    for m in range(x.shape[0]):
        for j in range(x.shape[1]):
            base[m] += np.float64(centre[j]) * np.float64(as_float(x[m, j]))
    sums = np.empty((max(team[1], 1), x.shape[0], GROUP), np.float64)
    rows = Rows(q, scale, radius, own_norm, row_sum, bias)
    pieces = -(-q.shape[0] // _PIECE)
    spread(_piece, team, pieces, (tokens, rows, base, slack, in_integers, sums, low, up))
