"""The few-token kernel called by addresses: the way in that costs least.

Numba looks at every argument of a call, and an array costs it a dozen times what a number does. So
what stays the same from call to call goes in as one table of numbers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import carray

from reluctant.kernels import few
from reluctant.kernels.candidates import Layer
from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import pointer
from reluctant.kernels.lanes import GROUP, QUAD
from reluctant.kernels.norm import Norm

ARRAYS = len(Layer._fields) + 1  # and the norm's weights
TABLE, NUMBERS = ARRAYS + 16, 4  # how long `table_of`'s are


def table_of(
    layer: Layer, norm: Norm, numbers: Sequence[float], *, everything: bool = False
) -> tuple[Any, ...]:
    """What `run_at` takes first. The arrays have to outlive it.

    numbers: max_norm, slack, threshold, code, gated, in_integers; everything: likewise (as
    `few.run` takes them).
    """
    d_ff, d_model = layer.rows.shape
    live = (layer.live_gates, layer.live_factors, layer.live_values)
    watched = (size for matrix in live for size in matrix.shape)
    sizes = (d_ff, d_model, *layer.q.shape[:2], norm.weight.size, layer.sums.shape[1], *watched)
    addresses = [array.ctypes.data for array in (*layer, norm.weight)]
    max_norm, slack, threshold, *integers = numbers
    table: npt.NDArray[np.int64] = np.array(
        [*addresses, *sizes, *map(int, integers), int(everything)], np.int64
    )
    kinds = layer.bias[:0], layer.rows[:0, 0]
    return table, np.array([max_norm, slack, threshold, norm.eps]), *kinds


@kernel()
def run_at(
    table: Any, numbers: Any, kind: Any, read: Any, x_at: int, out_at: int, tokens: int,
    limit: float, turn: int, totals: Any, team: Any,
) -> Any:  # fmt: skip
    """`few.run` for the layer of `table_of`, with x and out at these addresses.

    kind, read: empty arrays of the weights' type and of the one that the kernel reads them in. x,
    out: (tokens, d_model), of the former, contiguous.
    """
    at, more = table, table[ARRAYS:]
    d_ff, d, groups, quads, normed, longest = more[0], more[1], more[2], more[3], more[4], more[5]
    code, gated, in_integers, everything = more[12], more[13], more[14], more[15]
    return few.run(
        carray(pointer(x_at, kind), (tokens, d)),
        carray(pointer(at[0], np.int8), (groups, quads, GROUP, QUAD)),
        carray(pointer(at[1], np.float32), (d_ff,)),
        carray(pointer(at[2], np.float32), (d_ff,)),
        carray(pointer(at[3], np.float32), (d_ff,)),
        carray(pointer(at[4], np.int32), (d_ff,)),
        carray(pointer(at[5], read), (d_ff, d)),
        carray(pointer(at[6], kind), (d_ff,)),
        carray(pointer(at[7], read), (d_ff, d)),
        carray(pointer(at[8], kind), (d_ff,)),
        carray(pointer(at[9], read), (d_ff, d)),
        carray(pointer(at[10], kind), (d,)),
        carray(pointer(at[11], kind), (more[6], more[7])),
        carray(pointer(at[12], kind), (more[8], more[9])),
        carray(pointer(at[13], kind), (more[10], more[11])),
        carray(pointer(at[14], np.int64), (3,)),
        carray(pointer(at[15], kind), (3, longest)),
        carray(pointer(at[16], kind), (3, d_ff)),
        carray(pointer(at[17], np.uint64), (3, longest)),
        numbers[0],
        numbers[1],
        numbers[2],
        code,
        gated != 0,
        in_integers != 0,
        limit,
        everything != 0,
        turn,
        carray(pointer(at[18], kind), (normed,)),
        numbers[3],
        carray(pointer(out_at, kind), (tokens, d)),
        totals,
        team,
    )
