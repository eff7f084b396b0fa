"""The many-token kernel that reads only candidates' keys: screen, confirm, values.

*Screen*: the sketch times x in bytes (`screen`); what it cannot rule out is a candidate. *Confirm*:
the candidates' pre-activations from the real rows; in gated layers the active ones' factors, too.
*Values*: the lists put together (`compact`), and as in `many`.

Tokens go in fixed blocks, which stay in the second-level cache; the sketch and the rows stream past
them, 64 neurons at a time. Every pre-activation comes from one code path, and every output column
is summed in the neurons' order: the bits depend neither on the number of threads nor on which
neurons the screen has ruled out.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reluctant.kernels.activate import activate, is_active
from reluctant.kernels.active import BITS, BLOCK, add_rows
from reluctant.kernels.bound import room
from reluctant.kernels.candidates import HUGE, Layer, Rule
from reluctant.kernels.compact import copy, count_stays
from reluctant.kernels.compile import kernel
from reluctant.kernels.few import DENSE, DONE, STALE
from reluctant.kernels.lanes import GROUP, QUAD
from reluctant.kernels.pairs import key_dot
from reluctant.kernels.screen import (
    AT_ONCE,
    Integers,
    group_terms,
    kept,
    products,
    room_for_integers,
    to_integers,
)
from reluctant.kernels.team import spread
from reluctant.kernels.vector import count_bits, lowest_bit
from reluctant.kernels.watch import watched_changed

BLOCK_BYTES = 2**20  # x of a block of tokens: half of a second-level cache
BLOCK_TOKENS = 128
_CONVERTED = 16  # tokens of a piece that are made integers
SAMPLE = 2 * AT_ONCE  # tokens that are screened first, to see whether the call is too crowded


class Lists(NamedTuple):
    """The active neurons of every token.

    neuron: (n,) int32; weight: (n,) float32, f(z); bounds: (tokens, blocks, 2) int64, from where to
    where a token's neurons of a block stand in them; counts: (pieces, 8) int64: active, candidates,
    stale (a cache line each: threads share none).
    """

    neuron: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float32]
    bounds: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


class Scratch(NamedTuple):
    """A thread's room for one block of neurons and one of tokens.

    sums: (tokens, 64) int32; start: (64,) int32 and terms: (4, 64) float64, as in `group_terms`;
    bits: (tokens,) uint64, a group's candidates; row, weight: (groups, pairs), the active ones,
    token by token, and their f(z); found: (groups, tokens) int32, how many a token has.
    """

    sums: npt.NDArray[np.int32]
    start: npt.NDArray[np.int32]
    terms: npt.NDArray[np.float64]
    bits: npt.NDArray[np.uint64]
    row: npt.NDArray[np.uint8]
    weight: npt.NDArray[np.float32]
    found: npt.NDArray[np.int32]


@kernel()
def _rooms(threads: int, tokens: int, groups: int) -> Any:
    """The arrays of `Scratch` for each thread: one more axis, in front."""
    pairs = tokens * GROUP
    return (
        np.empty((threads, tokens, GROUP), np.int32),
        np.empty((threads, GROUP), np.int32),
        np.empty((threads, 4, GROUP), np.float64),
        np.empty((threads, tokens), np.uint64),
        np.empty((threads, groups, pairs), np.uint8),
        np.empty((threads, groups, pairs), np.float32),
        np.empty((threads, groups, tokens), np.int32),
    )


@kernel()
def _neuron_block(d: int, d_ff: int) -> Any:
    """Neurons of a block: a multiple of 64; at least four blocks of a layer with as many."""
    return min(max(BLOCK_BYTES // (4 * d) // BITS, 1), max(d_ff // (4 * BITS), 1)) * BITS


@kernel()
def _token_block(tokens: int, d: int) -> Any:
    """Tokens of a block: even shares, multiples of AT_ONCE."""
    most = min(BLOCK_TOKENS, max(BLOCK_BYTES // (4 * d), 4 * AT_ONCE))
    share = -(-tokens // -(-tokens // most))
    return -(-share // AT_ONCE) * AT_ONCE


@kernel()
def _screen(g: int, first: int, last: int, integers: Any, layer: Any, rule: Any, s: Any) -> Any:
    """The candidates of group g for tokens first..last, as bits; how many."""
    present = group_terms(g, layer, rule, s.start, s.terms)
    products(g, first, last, integers.digits, layer.q, s.start, s.sums)
    count = 0
    for m in range(first, last):
        token = integers.step[m], integers.norm[m], integers.loss[m]
        bits = kept(s.sums, m - first, s.terms, *token, rule.threshold)
        s.bits[m - first] = present if rule.everything else bits & present
        count += count_bits(s.bits[m - first])
    return count


@kernel()
def _confirm(g: int, at: int, first: int, last: int, x: Any, integers: Any, layer: Any, rule: Any,
             s: Any) -> Any:  # fmt: skip
    """Lists the active ones of group g's candidates in row `at` of the scratch.

    Whether a z lies farther from its estimate than the sketch allows: stale weights. All in one
    loop, in the shadow of the rows' way from the second-level cache.
    """
    d, base, end, stale = x.shape[1], g * GROUP, 0, False
    rows, weights = s.row[at], s.weight[at]
    for m in range(first, last):
        bits, begin = s.bits[m - first], end
        step, norm, loss = integers.step[m], integers.norm[m], integers.loss[m]
        while bits != 0:
            r = lowest_bit(bits)
            bits &= bits - np.uint64(1)
            z = key_dot(layer.rows, base + r, x, m, d) + layer.bias[base + r]
            rows[end] = r
            weights[end] = activate(rule.code, z)
            end += is_active(rule.code, rule.threshold, z)
            bias = np.float64(layer.bias[base + r])
            e = s.terms[0, r] * (step * s.sums[m - first, r]) + bias
            far = room(norm, s.terms[2, r], loss, s.terms[3, r], rule.slack, bias)
            stale |= abs(np.float64(z) - e) > far
        s.found[at, m - first] = end - begin
    if rule.gated:
        p = 0
        for m in range(first, last):
            for _ in range(s.found[at, m - first]):
                i = base + rows[p]
                weights[p] *= key_dot(layer.factors, i, x, m, d) + layer.factor_bias[i]
                p += 1
    return stale


@kernel()
def _block(b: int, size: int, first: int, last: int, x: Any, integers: Any, layer: Any, rule: Any,
           s: Any, lists: Any, at: int, counts: Any) -> Any:  # fmt: skip
    """Lists the active neurons of block b for tokens first..last from `at` on; where they end."""
    d_ff = layer.scale.shape[0]
    low, high = b * size // GROUP, -(-min((b + 1) * size, d_ff) // GROUP)
    for g in range(low, high):
        counts[1] += _screen(g, first, last, integers, layer, rule, s)
        counts[2] |= _confirm(g, g - low, first, last, x, integers, layer, rule, s)
        if first == 0:
            counts[2] |= watched_changed(layer, g * GROUP, (g + 1) * GROUP, rule.turn)
    begin, ends = at, np.zeros(high - low, np.int64)
    for m in range(first, last):
        lists.bounds[m, b, 0] = at
        for g in range(high - low):
            for p in range(ends[g], ends[g] + s.found[g, m - first]):
                lists.neuron[at] = (low + g) * GROUP + s.row[g, p]
                lists.weight[at] = s.weight[g, p]
                at += 1
            ends[g] += s.found[g, m - first]
        lists.bounds[m, b, 1] = at
    counts[0] += at - begin
    return at


@kernel()
def _piece(k: int, who: int, length: int, size: int, x: Any, integers: Any, layer: Any,
           rule: Any, rooms: Any, lists: Any) -> None:  # fmt: skip
    """One block of tokens, one of neurons; its lists have room for all of them."""
    blocks, d_ff = lists.bounds.shape[1], layer.scale.shape[0]
    first, b = k // blocks * length, k % blocks
    last = min(first + length, x.shape[0])
    at = first * d_ff + b * size * (last - first)
    room = Scratch(
        rooms.sums[who], rooms.start[who], rooms.terms[who], rooms.bits[who], rooms.row[who],
        rooms.weight[who], rooms.found[who],
    )  # fmt: skip
    _block(b, size, first, last, x, integers, layer, rule, room, lists, at, lists.counts[k])


@kernel()
def _take_integers(k: int, who: int, x: Any, integers: Any, max_norm: float) -> None:
    tokens = x.shape[0]
    for m in range(k * _CONVERTED, min((k + 1) * _CONVERTED, integers.digits.shape[0])):
        if m < tokens:
            to_integers(m, x[m], max_norm, integers)
        else:
            integers.digits[m, :] = 0


@kernel()
def _crowded(x: Any, layer: Any, rule: Any, max_norm: float) -> Any:
    """Whether a few tokens have too many candidates in some of the groups.

    So a try in vain is short: it wakes no other thread.
    """
    tokens, groups = x.shape[0], layer.q.shape[0]
    taken, every = min(SAMPLE, tokens), max(1, min(8, groups // 2))
    sample = Integers(*room_for_integers(taken, QUAD * layer.q.shape[1]))
    for k in range(taken):
        to_integers(k, x[tokens * k // taken], max_norm, sample)
    one = np.int64(1)  # a literal 0 or 1 would have callees compiled anew
    rooms = Scratch(*_rooms(one, sample.digits.shape[0], one))
    room = Scratch(
        rooms.sums[0], rooms.start[0], rooms.terms[0], rooms.bits[0], rooms.row[0],
        rooms.weight[0], rooms.found[0],
    )  # fmt: skip
    count = neurons = 0
    for g in range(0, groups, every):
        count += _screen(g, one - 1, taken, sample, layer, rule, room)
        neurons += min(GROUP, layer.scale.shape[0] - g * GROUP)
    return count > rule.limit * neurons * taken


@kernel()
def _room_for_lists(tokens: int, pieces: int, d_ff: int, blocks: int) -> Any:
    """As large as every neuron being active would need; what is not used is never touched."""
    index, weight = np.empty(tokens * d_ff, np.int32), np.empty(tokens * d_ff, np.float32)
    return index, weight, np.empty((tokens, blocks, 2), np.int64), np.zeros((pieces, 8), np.int64)


@kernel()
def _factors_overflow(integers: Any, factor_bias: Any) -> Any:
    """Whether one may: an infinite factor makes NaN of a zero. A rare call, and the dense way's."""
    overflow = False
    for m in range(integers.huge.shape[0]):
        overflow |= integers.huge[m]
    for i in range(factor_bias.shape[0]):
        overflow |= not abs(factor_bias[i]) < HUGE
    return overflow


@kernel()
def all_integers(x: Any, layer: Any, max_norm: float, team: Any) -> Any:
    """x as `Integers`."""
    integers = Integers(*room_for_integers(x.shape[0], QUAD * layer.q.shape[1]))
    pieces = -(-integers.digits.shape[0] // _CONVERTED)
    spread(_take_integers, team, pieces, (x, integers, max_norm))
    return integers


@kernel()
def list_active(x: Any, integers: Any, layer: Any, rule: Any, team: Any) -> Any:
    """`Lists`; how many are active, and were candidates; whether a weight has left its sketch."""
    (tokens, d), d_ff = x.shape, layer.scale.shape[0]
    length, size = _token_block(tokens, d), _neuron_block(d, d_ff)
    blocks = -(-d_ff // size)
    pieces = -(-tokens // length) * blocks
    lists = Lists(*_room_for_lists(tokens, pieces, d_ff, blocks))
    rooms = Scratch(*_rooms(max(team[1], 1), length, size // GROUP))
    spread(_piece, team, pieces, (length, size, x, integers, layer, rule, rooms, lists))
    stale = active = candidates = 0
    for k in range(pieces):
        active += lists.counts[k, 0]
        candidates += lists.counts[k, 1]
        stale |= lists.counts[k, 2]
    return lists, active, candidates, stale != 0


@kernel()
def run(
    x: Any, q: Any, scale: Any, radius: Any, own_norm: Any, row_sum: Any, rows: Any, bias: Any,
    factors: Any, factor_bias: Any, values: Any, value_bias: Any, live_gates: Any,
    live_factors: Any, live_values: Any, copied: Any, corner: Any, first: Any, sums: Any,
    max_norm: float, slack: float, threshold: float, code: int, gated: bool, limit: float,
    everything: bool, turn: int, out: Any, totals: Any, team: Any,
) -> int:  # fmt: skip
    """out = f(x rows^T + bias) values + value_bias: arguments and result are those of `few.run`.

    All float32. limit: the share of candidates, in a sample, above which it gives up at once (>= 1:
    never).
    """
    layer = Layer(
        q, scale, radius, own_norm, row_sum, rows, bias, factors, factor_bias, values, value_bias,
        live_gates, live_factors, live_values, copied, corner, first, sums,
    )  # fmt: skip
    rule = Rule(threshold, code, slack, gated, True, limit, everything, turn)
    if limit < 1 and _crowded(x, layer, rule, max_norm):
        return DENSE
    integers = all_integers(x, layer, max_norm, team)
    if gated and _factors_overflow(integers, factor_bias):
        return DENSE
    lists, active, candidates, stale = list_active(x, integers, layer, rule, team)
    if stale:
        return STALE
    start, d_ff = np.empty(x.shape[0] + 1, np.int64), scale.shape[0]
    count_stays(lists.bounds, lists.neuron, 0.0, 0, d_ff, start)
    offset = np.empty((x.shape[0], -(-d_ff // BLOCK) + 1), np.int32)
    neuron, weight = np.empty(active, np.int32), np.empty(active, np.float32)
    lists_of = lists.bounds, lists.neuron, lists.weight
    copy(*lists_of, d_ff, 0.0, 0, start, offset, neuron, weight, team)
    add_rows(start, offset, neuron, weight, values, value_bias, out, team)
    totals[0] += active
    totals[1] += candidates
    return DONE
