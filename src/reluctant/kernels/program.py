"""A list of operations on float32 rows, done one after the other in one call from Python.

For models so small that calling an operation takes as long as the operation. What there is: what
stands between the feed-forward layers of a Transformer. Everything is given by addresses, in tables
of numbers; what lies there is for who makes them to see to.
"""

from typing import Any

import numpy as np
from numba import carray

from reluctant.kernels.attention import look
from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import pointer
from reluctant.kernels.entry import NUMBERS, TABLE, run_at
from reluctant.kernels.layer_norm import add, layer_norm
from reluctant.kernels.linear import block_of, outputs
from reluctant.kernels.team import spread
from reluctant.kernels.watch import rows_changed

# What an operation is: the first number of its row in the table; the others follow here.
EMBED = 0  # ids, table, positions, out, rows, d, positions a sequence, tokens in the table
NORM = 1  # x, y, out, rows, d, weight, bias
MAPS = 2  # x, rows, d, first map, number of maps
ATTEND = 3  # queries, keys, values, out, rows, heads, d_head, lists, lengths, their room, rows that
# see what is on one of them, keys
FEW = 4  # table and numbers of `entry.table_of`, x, out, rows
LEAVE = 5  # nothing: what is to be done here is Python's
FIELDS = 13
# A map's row in theirs: its weights as they are read, its bias or 0, where its result goes, how
# many outputs; and of a copy the live weights and what stood there, or 0.
WEIGHT, BIAS, OUT, OUTPUTS, LIVE, CORNER, SUMS = range(7)

DONE, STALE, NO_TOKEN = -1, -2, -3

OUTPUTS_OF_A_PIECE = 64
_ROWS = 4  # of a piece
_WATCHED = 1 << 14  # outputs of a map that are looked at in each call


@kernel()
def _floats(address: int, rows: int, d: int) -> Any:
    return carray(pointer(address, np.float32), (rows, d))


@kernel()
def _vector(address: int, d: int) -> Any:
    return carray(pointer(address, np.float32), (d if address != 0 else 0,))


@kernel()
def _embed(op: Any, scale: float) -> Any:
    """Rows of a table, times a factor, and positions; False, nothing done, for an id of no row."""
    rows, d, length, tokens = op[5], op[6], op[7], op[8]
    ids = carray(pointer(op[1], np.int64), (rows,))
    table, out = _floats(op[2], tokens, d), _floats(op[4], rows, d)
    positions = _floats(op[3], length, d)
    for m in range(rows):
        if not 0 <= ids[m] < tokens:
            return False
    for m in range(rows):
        row, position, into = table[ids[m]], positions[m % length], out[m]
        for j in range(d):
            into[j] = row[j] * np.float32(scale) + position[j]
    return True


@kernel()
def _norm(k: int, who: int, op: Any, eps: float) -> None:
    """x += y, and out = norm(x); without y the latter, without a weight the former."""
    rows, d = op[4], op[5]
    x, y, out = _floats(op[1], rows, d), _floats(op[2], rows, d), _floats(op[3], rows, d)
    weight, bias = _vector(op[6], d), _vector(op[7], d)
    for m in range(k * _ROWS, min((k + 1) * _ROWS, rows)):
        if op[2] != 0:
            add(x[m], y[m])
        if op[6] != 0:
            layer_norm(x[m], weight, bias, eps, out[m])


@kernel()
def _map(k: int, who: int, op: Any, maps: Any, read: Any, turn: int, stale: Any) -> None:
    """Some outputs of one of several maps of the same rows."""
    rows, d, pieces = op[2], op[3], op[6]
    at = maps[op[4] + k // pieces]
    n = at[OUTPUTS]
    lo = k % pieces * OUTPUTS_OF_A_PIECE
    hi = min(lo + OUTPUTS_OF_A_PIECE, n)
    if lo >= hi:
        return
    if at[LIVE] != 0 and k % max(1, n // _WATCHED) == turn % max(1, n // _WATCHED):
        live = _floats(at[LIVE], n, d)
        corner, sums = _vector(at[CORNER], n), carray(pointer(at[SUMS], np.uint64), (n,))
        if rows_changed(live, corner, sums, lo, hi, turn):
            stale[0] = 1
    w = carray(pointer(at[WEIGHT], read), (n, d))
    block = block_of(rows, OUTPUTS_OF_A_PIECE, d * read.itemsize)
    bias, y = _vector(at[BIAS], n), _floats(at[OUT], rows, n)
    outputs(w, lo, hi, block, _floats(op[1], rows, d), bias, y)


@kernel()
def _attend(r: int, who: int, op: Any) -> None:
    """One row, all heads: it looks at the keys on its list."""
    rows, heads, d, room, several, keys = op[5], op[6], op[7], op[10], op[11], op[12]
    q, out = _floats(op[1], rows * heads, d), _floats(op[4], rows * heads, d)
    k, v = _floats(op[2], keys * heads, d), _floats(op[3], keys * heads, d)
    own = r // several
    lists = carray(pointer(op[8], np.int32), (own + 1, room))
    count = carray(pointer(op[9], np.int64), (own + 1,))[own]
    listed, scores = np.empty(count, np.int32), np.empty(count, np.float32)
    for h in range(heads):
        for p in range(count):
            listed[p] = lists[own, p] * heads + h
            scores[p] = 0
        at = r * heads + h
        look(q[at : at + 1], k, v, listed, listed, scores, count, out[at : at + 1])


@kernel()
def _few(op: Any, limit: float, read: Any, turn: int, totals: Any, team: Any) -> Any:
    """A feed-forward layer's few-token kernel; whether it served."""
    table = carray(pointer(op[1], np.int64), (TABLE,))
    numbers = carray(pointer(op[2], np.float64), (NUMBERS,))
    kind = np.empty(0, np.float32)
    return run_at(table, numbers, kind, read, op[3], op[4], op[5], limit, turn, totals, team) == 0


@kernel()
def run(ops: Any, numbers: Any, maps: Any, read: Any, start: int, turn: int, team: Any) -> int:
    """The operations from `start` on, up to one that is Python's, whose number it gives, or DONE.

    So is a feed-forward layer that its kernel leaves to others. ops: (n, FIELDS) int64; numbers:
    (n,) float64, a factor, an eps or a limit; maps: (k, 7) int64; read: an empty array of the type
    that all weights are read in. turn: a counter, by which rows are compared with their copies in
    turn. Gives STALE if a map is not what was copied, and NO_TOKEN for an id that is none: then
    nothing is to be made of what was written.
    """
    totals = np.zeros(2, np.int64)
    stale = np.zeros(1, np.int64)
    for i in range(start, ops.shape[0]):
        op = ops[i]
        if op[0] == LEAVE:
            return i
        if op[0] == EMBED:
            if not _embed(op, numbers[i]):
                return NO_TOKEN
        elif op[0] == FEW:
            if not _few(op, numbers[i], read, turn, totals, team):
                return i
        elif op[0] == NORM:
            spread(_norm, team, -(-op[4] // _ROWS), (op, numbers[i]))
        elif op[0] == MAPS:
            spread(_map, team, op[5] * op[6], (op, maps, read, turn, stale))
            if stale[0] != 0:
                return STALE
        else:
            spread(_attend, team, op[5], (op,))
    return DONE
