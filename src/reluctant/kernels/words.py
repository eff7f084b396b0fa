"""The sketch's product in 16-bit integers, for processors with AVX2 (`vpmaddwd`).

x comes as words X with |X| <= top. A quad of the sketch, four columns of a neuron in 32 bits, is
taken apart into columns 0 and 2 and columns 1 and 3, each two 16-bit numbers: three shifts for
eight neurons, and every neuron keeps a lane of its own, so that no sum across a vector is needed.
`vpmaddwd` multiplies pairs and adds the two products: the words of x stand in the same order,
0, 2, 1, 3.

**No overflow.** A product of two words and the next is at most 2 * 127 * 32767 < 2^31. Over d
columns a lane's sum stays within 127 top d, in any order: `top_of` keeps that below 2^31, so sums
are exact. For d <= 516 the words have all their 16 bits; at 4096 columns 13 are left, whose loss is
a thirtieth of what the sketch itself loses.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from reluctant.kernels import integer
from reluctant.kernels.compile import kernel
from reluctant.kernels.lanes import GROUP, QUAD
from reluctant.kernels.vector import I16, I32, I64, Emitter

ORDER = (0, 2, 1, 3)  # of a quad's columns
AT_ONCE = 4  # tokens
_LANES = 8
_VI16 = ir.VectorType(I16, 2 * _LANES)
_VI32 = ir.VectorType(I32, _LANES)
_VF64 = ir.VectorType(ir.DoubleType(), _LANES)
_EIGHTS = ir.Constant(_VI16, [8] * 2 * _LANES)
_ZEROS = ir.Constant(_VI32, [0] * _LANES)
_AHEAD = 4096  # bytes: the processor's own prefetcher stops at the end of a page


@kernel()
def top_of(d: int) -> int:
    """The largest |X| for rows of d columns, d <= `integer.LONGEST`."""
    return min(32767, (2**31 - 1) // (127 * d))


@kernel(reordered=True)
def _round(x: Any, step: float, into: Any) -> Any:
    """Writes x / step, rounded; gives the sum of the squared losses."""
    inverse, total = 1.0 / step, 0.0
    for j in range(x.shape[0]):
        rounded = np.rint(np.float64(x[j]) * inverse)
        into[j] = np.int16(rounded)
        off = np.float64(x[j]) - step * rounded
        total += off * off
    return total


@kernel()
def to_words(x: Any, step: float, into: Any) -> Any:
    """Writes x, (d,) float32, as words of so many steps, in ORDER; gives the squared losses' sum.

    into: (>= d,) int16, zeros; its length is a multiple of 4. |x| / step has to be below 2^15.
    """
    squared = _round(x, step, into)
    for j in range(0, into.shape[0], QUAD):
        into[j + 1], into[j + 2] = into[j + 2], into[j + 1]
    return squared


def _add(e: Emitter, total: Any, weights: Any, columns: Any) -> Any:
    """total + the products of pairs of words, summed."""
    if integer.CAPABILITY == "avxvnni":
        kind = ir.FunctionType(_VI32, [_VI32] * 3)
        name = "llvm.x86.avx512.vpdpwssd.256"
        function = cgutils.get_or_insert_function(e.b.module, kind, name)
        return e.b.call(function, [total, e.b.bitcast(weights, _VI32), e.b.bitcast(columns, _VI32)])
    kind = ir.FunctionType(_VI32, [_VI16] * 2)
    function = cgutils.get_or_insert_function(e.b.module, kind, "llvm.x86.avx2.pmadd.wd")
    return e.b.add(total, e.b.call(function, [weights, columns]))


def word_pass(tokens: int, vectors: int, *, from_memory: bool) -> Any:
    """An intrinsic `f(q, g, words, m, sums, to, c)`:

        sums[to + t, c + r] = sum_j q_rj X_{m + t, j}    for tokens t, the 64 neurons r of group g

    q: (groups, d / 4, 64, 4) int8; words: (n, d) int16, in ORDER; sums: (n, >= c + 64) int32 or
    float64.
    vectors: how many times 8 neurons go together, as many as there are registers for the tokens.
    from_memory: reads ahead.
    """

    @intrinsic
    def products(_: Any, q: Any, g: Any, words: Any, m: Any, sums: Any, to: Any, c: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Emitter(context, builder, signature, args)
            b = e.b
            words_data, width = e.array(2)
            group = e.row(e.array(0)[0], b.mul(width, I64(GROUP)), args[1])
            rows = [e.row(words_data, width, args[3], t) for t in range(tokens)]
            sums_data, sums_width = e.array(4)
            wide = signature.args[4].dtype == types.float64

            def pair(row: Any, j: Any, plus: int) -> Any:
                at = b.bitcast(b.gep(row, [b.add(j, I64(plus))]), I32.as_pointer())
                value = b.load(at, align=2)
                single = b.insert_element(ir.Constant(_VI32, ir.Undefined), value, I32(0))
                return b.bitcast(b.shuffle_vector(single, single, _ZEROS), _VI16)

            for part in range(0, GROUP // _LANES, vectors):

                def step(j: Any, totals: list[Any], part: int = part) -> list[Any]:
                    at = b.add(b.mul(j, I64(GROUP)), I64(part * _LANES * QUAD))
                    columns = [(pair(row, j, 0), pair(row, j, 2)) for row in rows]
                    for v in range(vectors):
                        place = b.gep(group, [b.add(at, I64(v * _LANES * QUAD))])
                        if from_memory and v % 2 == 0:
                            e.prefetch(place, I64(_AHEAD))
                        raw = b.load(b.bitcast(place, _VI16.as_pointer()), align=1)
                        even = b.ashr(b.shl(raw, _EIGHTS), _EIGHTS)
                        odd = b.ashr(raw, _EIGHTS)
                        for t, (first, second) in enumerate(columns):
                            k = v * tokens + t
                            totals[k] = _add(e, totals[k], even, first)
                            totals[k] = _add(e, totals[k], odd, second)
                    return totals

                _, *totals = e.loop(I64(0), width, QUAD, [_ZEROS] * (vectors * tokens), step)
                for v in range(vectors):
                    for t in range(tokens):
                        row = e.row(sums_data, sums_width, args[5], t)
                        place = b.gep(row, [b.add(args[6], I64((part + v) * _LANES))])
                        total = totals[v * tokens + t]
                        if wide:
                            total = b.sitofp(total, _VF64)
                        b.store(total, b.bitcast(place, total.type.as_pointer()), align=4)
            return context.get_dummy_value()

        n = types.intp
        return types.void(q, n, words, n, sums, n, n), generate

    return products


def plain_pass(tokens: int) -> Any:
    """The same on any processor, for tests: an engine there goes by float32 sums."""

    @kernel()
    def products(q: Any, g: int, words: Any, m: int, sums: Any, to: int, c: int) -> None:
        for t in range(tokens):
            for r in range(GROUP):
                total = 0
                for j in range(words.shape[1]):
                    at = j // QUAD * QUAD + ORDER[j % QUAD]
                    total += int(q[g, at // QUAD, r, at % QUAD]) * int(words[m + t, j])
                sums[to + t, c + r] = total

    return products
