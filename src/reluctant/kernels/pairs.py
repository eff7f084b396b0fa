"""Exact pre-activations of single pairs of neuron and token: the real rows against x."""

from typing import Any

from numba import types
from numba.extending import intrinsic

from reluctant.kernels.vector import I64, LANES, ZEROS, Emitter

_CHAINS = 8


def _dot(e: Emitter, ahead: Any = None) -> Any:
    """rows[i, :d] times x[m, :d], of arguments (rows, i, x, m, d): eight chains, then the rest.

    ahead: a row to be prefetched on the way. The bits are the same with it and without.
    """
    key, column = (e.row(*e.array(k), e.args[k + 1]) for k in (0, 2))
    line = 32 if e.is_short(0) else 16  # entries of a cache line

    def step(j: Any, sums: list[Any], count: int) -> list[Any]:
        for u in range(count):
            at = e.b.add(j, I64(u * LANES))
            if ahead is not None and u * LANES % line == 0:
                e.prefetch(ahead, at)
            sums[u] = e.fma(e.load(key, at), e.load(column, at), sums[u])
        return sums

    def single(j: Any, sums: list[Any]) -> list[Any]:
        return [e.fma(e.load_one(key, j), e.load_one(column, j), sums[0])]

    d, begin = e.args[4], [ZEROS] * _CHAINS
    j, *sums = e.loop(I64(0), d, _CHAINS * LANES, begin, lambda j, s: step(j, s, _CHAINS))
    j, *sums = e.loop(j, d, LANES, sums, lambda j, s: step(j, s, 1))
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [e.b.fadd(a, b) for a, b in zip(sums[:half], sums[half:], strict=True)]
    return e.loop(j, d, 1, [e.total(sums[0])], single)[1]


_N = types.intp


@intrinsic
def key_dot(_: Any, keys: Any, i: Any, x: Any, m: Any, d: Any) -> Any:
    """The product of keys[i, :d] and x[m, :d], in float32.

    keys: (n, d) float32, bfloat16 in uint16, or float16 in int16; x: (m, >= d) float32.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _dot(Emitter(context, builder, signature, args))

    return types.float32(keys, _N, x, _N, _N), generate


@intrinsic
def key_dot_ahead(_: Any, keys: Any, i: Any, x: Any, m: Any, d: Any, following: Any) -> Any:
    """`key_dot` that prefetches row `following` of keys.

    For rows that come from memory here and there, which wait for it one by one otherwise; from the
    second-level cache it would only take turns at reading.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args)
        return _dot(e, e.row(*e.array(0), args[5]))

    return types.float32(keys, _N, x, _N, _N, _N), generate
