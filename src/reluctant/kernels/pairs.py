"""Pre-activations of single (neuron, token) pairs, where the rows are in the nearer caches."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from reluctant.kernels.vector import I64, LANES, Emitter

_CHAINS = 8
_ZEROS = ir.Constant(ir.VectorType(ir.FloatType(), LANES), [0.0] * LANES)


@intrinsic
def row_dot(_: Any, rows: Any, i: Any, x: Any, m: Any, d: Any) -> Any:
    """The product of rows[i, :d] and x[m, :d], float32: eight vectors of sums, then the rest.

    As `vector.key_dot`, which prefetches; here that would only take turns at reading.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args)
        row, column = (e.row(*e.array(k), args[k + 1]) for k in (0, 2))

        def step(j: Any, sums: list[Any]) -> list[Any]:
            for u in range(min(len(sums), _CHAINS)):
                at = builder.add(j, I64(u * LANES))
                sums[u] = e.fma(e.load(row, at), e.load(column, at), sums[u])
            return sums

        def single(j: Any, sums: list[Any]) -> list[Any]:
            a, b = (builder.load(builder.gep(p, [j])) for p in (row, column))
            return [e.fma(a, b, sums[0])]

        j, *sums = e.loop(I64(0), args[4], _CHAINS * LANES, [_ZEROS] * _CHAINS, step)
        while len(sums) > 1:
            half = len(sums) // 2
            sums = [builder.fadd(a, b) for a, b in zip(sums[:half], sums[half:], strict=True)]
        j, *sums = e.loop(j, args[4], LANES, sums, step)
        return e.loop(j, args[4], 1, [e.total(sums[0])], single)[1]

    n = types.intp
    return types.float32(rows, n, x, n, n), generate
