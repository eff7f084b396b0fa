"""Plain products, for few rows of x above all: every weight is read once for all of them.

Each sum has one order, whatever else is computed beside it: 16 lanes, column by column, 1024
columns at a time, then halves onto halves. So a row's bits depend neither on the other rows nor on
the number of threads, and a single product has the bits that it has among all.
"""

from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from reluctant.kernels import integer
from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import as_float, pointer, rounded
from reluctant.kernels.team import spread
from reluctant.kernels.vector import I64, LANES, ZEROS, Emitter

MAX_ROWS = 16  # of x: from here on a dense library is as fast
_INPUTS = 1 << 18  # bytes of x that stay in the second-level cache while a piece is worked on
# Outputs side by side, by the rows of a pass. Their sums fill the registers: AVX2's 16, of which a
# vector takes two, with 12 sums and 2 weights, AVX-512's 32 with 24 and 4. With one row their
# latencies overlap; with more, an input that is loaded serves them all: at 5 to 16 rows 1.5x to 2x
# of one output at a time.
_BESIDE = (4, 4, 4, 4, 4, 4) if integer.CAPABILITY == "avx512vnni" else (4, 2, 2)
_MOST_BESIDE = max(_BESIDE)
WIDEST = len(_BESIDE)  # rows of x in one pass
_PIECE = 1 << 17  # bytes of weights
_LISTED = 16  # outputs that are listed, of a piece
_BLOCK = 1 << 14  # bytes of weights that several passes take turns at
_CHUNK = 1024  # columns that are summed for themselves: at 8192 the error is half of what it was
# Bytes of each output that are asked for ahead: the processor's own prefetcher stops at the end of
# a page. Measured: of four outputs 1024 or 3072 are slower, of one as well as nothing.
_AHEAD = {4: 2048, 2: 4096, 1: 4096}


def _products(outputs: int, rows: int) -> Any:
    """An intrinsic `f(w, lo, hi, x, m, bias, y)`, which gives the first output that it left:

        y[m + r, i] = <w[i], x[m + r]> + bias[i]    for so many rows r and lo <= i < hi

    so many outputs at a time. w: (n, d); x: (., d) float32; bias: (n,) or (0,); y: (., n).
    """

    @intrinsic
    def kernel(_: Any, w: Any, lo: Any, hi: Any, x: Any, m: Any, bias: Any, y: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Emitter(context, builder, signature, args)
            data, d = e.array(0)
            (bias_data, biases), (into, width) = e.array(5), e.array(6)
            nothing = cgutils.alloca_once_value(e.b, ir.Constant(bias_data.type.pointee, 0))
            biased = e.b.icmp_signed(">", biases, I64(0))
            columns = [e.row(*e.array(3), args[4], r) for r in range(rows)]
            results = [e.row(into, width, args[4], r) for r in range(rows)]
            pairs = [(k, r) for k in range(outputs) for r in range(rows)]
            line = 64 * 8 // signature.args[0].dtype.bitwidth  # entries of a cache line

            def some(i: Any, _: list[Any]) -> list[Any]:
                keys = [e.row(data, d, i, k) for k in range(outputs)]

                def step(j: Any, totals: list[Any], count: int) -> list[Any]:
                    if count * LANES == line:
                        # Beyond its end an output goes on with the next ones' columns: what comes
                        # after all that are side by side is next. 1.2-1.5x for 16-bit weights.
                        further = e.b.add(j, I64(_AHEAD[outputs] // 64 * line))
                        beyond = e.b.add(further, e.b.mul(d, I64(outputs - 1)))
                        within = e.b.icmp_signed("<", further, d)
                        for key in keys:
                            e.prefetch(key, e.b.select(within, further, beyond))
                    for u in range(count):
                        at = e.b.add(j, I64(u * LANES))
                        weights = [e.load(key, at) for key in keys]
                        inputs = [e.load(column, at) for column in columns]
                        totals = [
                            e.fma(weights[k], inputs[r], total)
                            for (k, r), total in zip(pairs, totals, strict=True)
                        ]
                    return totals

                def single(j: Any, totals: list[Any]) -> list[Any]:
                    return [
                        e.fma(e.load_one(keys[k], j), e.load_one(columns[r], j), total)
                        for (k, r), total in zip(pairs, totals, strict=True)
                    ]

                def part(first: Any, last: Any) -> tuple[Any, list[Any]]:
                    """Columns from first on, as many whole vectors as there are before last."""
                    j, sums = first, [ZEROS] * len(pairs)
                    for count in sorted({line // LANES, 1}, reverse=True):
                        steps = partial(step, count=count)
                        j, *sums = e.loop(j, last, count * LANES, sums, steps)
                    return j, sums

                def chunk(j: Any, totals: list[Any]) -> list[Any]:
                    _, sums = part(j, e.b.add(j, I64(_CHUNK)))
                    return [e.b.fadd(a, b) for a, b in zip(totals, sums, strict=True)]

                j, *totals = e.loop(I64(0), d, _CHUNK, [ZEROS] * len(pairs), chunk)
                j, sums = part(j, d)
                totals = [e.b.fadd(a, b) for a, b in zip(totals, sums, strict=True)]
                _, *totals = e.loop(j, d, 1, [e.total(total) for total in totals], single)
                for (k, r), total in zip(pairs, totals, strict=True):
                    at = e.b.add(i, I64(k))
                    at_bias = e.b.select(biased, e.b.gep(bias_data, [at]), nothing)
                    value = e.b.fadd(total, e.load_one(at_bias, I64(0)))
                    place = e.b.gep(results[r], [at])
                    kind = signature.args[6].dtype
                    e.b.store(rounded(e.b, value, kind), place)
                return []

            return e.loop(args[1], args[2], outputs, [], some)[0]

        n = types.intp
        return n(w, n, n, x, n, bias, y), generate

    return kernel


_single = _products(1, 1)
_one, _two, _three, *_more = (_products(k, 1 + r) for r, k in enumerate(_BESIDE))

if _more:
    _four, _five, _six = _more

    @kernel()
    def _wide(w: Any, lo: int, hi: int, x: Any, m: int, rows: int, bias: Any, y: Any) -> Any:
        if rows == 4:
            return _four(w, lo, hi, x, m, bias, y)
        if rows == 5:
            return _five(w, lo, hi, x, m, bias, y)
        return _six(w, lo, hi, x, m, bias, y)
else:
    # No pass is that wide.
    @kernel()
    def _wide(w: Any, lo: int, hi: int, x: Any, m: int, rows: int, bias: Any, y: Any) -> Any:
        return lo


@kernel()
def _as_floats(x: Any) -> Any:
    floats = np.empty(x.shape, np.float32)
    for m in range(x.shape[0]):
        for j in range(x.shape[1]):
            floats[m, j] = as_float(x[m, j])
    return floats


@kernel()
def _pass(w: Any, lo: int, hi: int, x: Any, m: int, rows: int, bias: Any, y: Any) -> None:
    """Outputs lo..hi of up to WIDEST rows."""
    if rows == 1:
        left = _one(w, lo, hi, x, m, bias, y)
    elif rows == 2:
        left = _two(w, lo, hi, x, m, bias, y)
    elif rows == 3:
        left = _three(w, lo, hi, x, m, bias, y)
    else:
        left = _wide(w, lo, hi, x, m, rows, bias, y)
    for r in range(rows if left < hi else 0):
        _single(w, left, hi, x, m + r, bias, y)


@kernel()
def outputs(w: Any, start: int, stop: int, block: int, x: Any, bias: Any, y: Any) -> None:
    """y[:, start:stop], as `run` has it, so many outputs at a time; x: float32."""
    most = max(_INPUTS // (4 * max(x.shape[1], 1)), MAX_ROWS)
    for first in range(0, x.shape[0], most):
        count = min(most, x.shape[0] - first)
        passes = -(-count // WIDEST)  # of even width
        for lo in range(start, stop, block):
            for p in range(passes):
                m, end = first + count * p // passes, first + count * (p + 1) // passes
                _pass(w, lo, min(lo + block, stop), x, m, end - m, bias, y)


@kernel()
def _piece(k: int, who: int, length: int, block: int, w: Any, x: Any, bias: Any, y: Any) -> None:
    outputs(w, k * length, min((k + 1) * length, w.shape[0]), block, x, bias, y)


@kernel()
def block_of(rows: int, length: int, width: int) -> Any:
    """How many outputs of weights so many bytes wide passes take turns at, of `length`."""
    # Weights are in the first-level cache for the passes after the first; one pass needs no blocks.
    block = max(_BLOCK // width // _MOST_BESIDE, 1) * _MOST_BESIDE
    return length if rows <= WIDEST else block


@kernel()
def run(x: Any, w: Any, bias: Any, y: Any, team: Any) -> None:
    """y = x w^T + bias.

    x: (m, d), w: (n, d), bias: (n,), or (0,) for none, y: (m, n): all contiguous and of one type,
    float32, bfloat16 in uint16, or float16 in int16; beside float32, w may be of another one, with
    the bits that its numbers would give as float32. m: any; beyond MAX_ROWS for those who want a
    row's bits to be its own, at any price.
    """
    width = w.shape[1] * w.itemsize
    length = max(_PIECE // width // _MOST_BESIDE, 1) * _MOST_BESIDE
    block = block_of(x.shape[0], length, width)
    pieces = -(-w.shape[0] // length)
    spread(_piece, team, pieces, (length, block, w, _as_floats(x), bias, y))


@kernel()
def run_at(
    kind: Any, read: Any, x_at: int, w_at: int, bias_at: int, y_at: int, m: int, n: int, d: int,
    biases: int, team: Any,
) -> None:  # fmt: skip
    """`run` by addresses, which costs least. kind, read: empty arrays of the type, and of w's;
    biases: n or 0."""
    run(
        carray(pointer(x_at, kind), (m, d)),
        carray(pointer(w_at, read), (n, d)),
        carray(pointer(bias_at, kind), (biases,)),
        carray(pointer(y_at, kind), (m, n)),
        team,
    )


@kernel()
def _some(k: int, who: int, x: Any, m: int, w: Any, rows: Any, bias: Any, y: Any) -> None:
    for p in range(k * _LISTED, min((k + 1) * _LISTED, rows.shape[0])):
        i = rows[p]
        own = bias[i : i + 1] if bias.size > 0 else bias
        _single(w[i : i + 1], 0, 1, x[m : m + 1], 0, own, y[:, p : p + 1])


@kernel()
def run_some(x: Any, m: int, w: Any, rows: Any, bias: Any, y: Any, team: Any) -> None:
    """y[0, p] = <w[rows[p]], x[m]> + bias[rows[p]]: the bits that `run` gives them.

    rows: (k,) int64, all within w; y: (1, k). The rest as in `run`.
    """
    spread(_some, team, -(-rows.shape[0] // _LISTED), (_as_floats(x), m, w, rows, bias, y))
