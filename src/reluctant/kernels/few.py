"""The few-token kernel: 1 to 16 rows of x, and only the neurons that may be active.

Three steps. *Sketch*: the int8 rows against x; a neuron whose upper bound stays below the threshold
is a certified zero (`reluctant.sketch` has the proof), the others are candidates. *Confirm*: the
candidates' pre-activations from the real rows; in gated layers the active ones' factors, too. (What
is active may then be normalised: `norm`.)
*Values*: the sum of the active neurons' values.

The neurons are divided into blocks of one size for the first two steps, the columns into chunks of
one size for the third; every sum has one order. So the bits depend neither on the number of threads
nor on which neurons the sketch could rule out: a zero that is confirmed instead of certified adds
nothing to any sum.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reluctant.kernels.activate import activate, is_active
from reluctant.kernels.candidates import HUGE, Layer, Rule, estimate, select, tame_bias
from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import as_float, prefetch_row, put_rounded, range_of
from reluctant.kernels.lanes import GROUP, QUAD
from reluctant.kernels.norm import Norm, normalise
from reluctant.kernels.pairs import key_dot_ahead
from reluctant.kernels.rows import CHUNK, add_list
from reluctant.kernels.sums import Tokens, float_sums, integer_sums, take_tokens
from reluctant.kernels.team import spread
from reluctant.kernels.watch import watched_changed

MAX_TOKENS = 16
BLOCK = 4 * GROUP  # neurons: a piece of some 50 us at most, and enough pieces for all threads
SAMPLE = 2 * GROUP  # neurons that are looked at first, and tokens
SAMPLE_TOKENS = 4

DONE, DENSE, STALE = 0, 1, 2


class Scratch(NamedTuple):
    """One call's room. Neurons are listed from where their block begins; `_settle` closes the gaps.

    sums: (tokens, padded d_ff) float64; candidates: (tokens, d_ff) int32; active, active_h:
    (tokens, d_ff) int32 and float32, active neurons and their f(z); found: (blocks, tokens) int64,
    how many candidates, then active neurons; counts: (blocks, 8) int64: candidates, gave up, stale,
    beyond the dtype's range (a cache line each: threads share none); lengths: (tokens,) int64, of
    the closed lists; total: (tokens, d) float32.
    """

    sums: npt.NDArray[np.float64]
    candidates: npt.NDArray[np.int32]
    active: npt.NDArray[np.int32]
    active_h: npt.NDArray[np.float32]
    found: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    total: npt.NDArray[np.float32]


@kernel()
def _room(tokens: int, d_ff: int, padded_d_ff: int, d: int) -> Any:
    blocks = -(-d_ff // BLOCK)
    return (
        np.empty((tokens, padded_d_ff), np.float64),
        np.empty((tokens, d_ff), np.int32),
        np.empty((tokens, d_ff), np.int32),
        np.empty((tokens, d_ff), np.float32),
        np.zeros((blocks, tokens), np.int64),
        np.zeros((blocks, 8), np.int64),
        np.zeros(tokens, np.int64),
        np.empty((tokens, d), np.float32),
    )


@kernel()
def _confirm(lo: int, m: int, tokens: Any, sums: Any, layer: Any, rule: Any, index: Any,
             count: int, active: Any, active_h: Any) -> Any:  # fmt: skip
    """One token's candidates: their real pre-activations, the active ones listed from `lo` on.

    How many are active; -1 if one contradicts its sketch (stale weights), -2 if one is beyond the
    range of the weights' dtype, and so infinite in the dense way.
    """
    d, end = layer.rows.shape[1], range_of(layer.bias)
    stale = beyond = False
    at = lo
    if count > 0:
        prefetch_row(layer.rows, index[lo], 0, d)
    for p in range(lo, lo + count):
        i = index[p]
        following = index[min(p + 1, lo + count - 1)]
        z = key_dot_ahead(layer.rows, i, tokens.x, m, d, following) + as_float(layer.bias[i])
        e, far = estimate(i, m, tokens, sums, layer, rule)
        stale |= (abs(np.float64(z) - e) > far) & (abs(e) < HUGE)
        fires = is_active(rule.code, rule.threshold, z)
        # An infinite factor makes NaN of a zero, so where it may be one, zeros go on, too.
        tame = not tokens.huge[m] and abs(as_float(layer.factor_bias[i])) < tame_bias(layer)
        if fires or (rule.gated and not tame):
            active[at] = i
            active_h[at] = activate(rule.code, z) if fires else np.float32(0.0)
            # Not where float32 itself has gone over: it is as infinite in the dense way.
            beyond |= end <= max(abs(z), abs(active_h[at])) < np.inf
            at += 1
    if rule.gated:
        for p in range(lo, at):
            i, following = active[p], active[min(p + 1, at - 1)]
            factor = key_dot_ahead(layer.factors, i, tokens.x, m, d, following)
            factor += as_float(layer.factor_bias[i])
            active_h[p] *= factor
            beyond |= end <= max(abs(factor), abs(active_h[p])) < np.inf
    return -1 if stale else -2 if beyond else at - lo


@kernel()
def _sums(lo: int, hi: int, tokens: Any, layer: Any, rule: Any, sums: Any) -> None:
    for g in range(lo // GROUP, -(-hi // GROUP)):
        if rule.in_integers:
            integer_sums(g, tokens, layer.q, sums, g * GROUP)
        else:
            float_sums(g, tokens, layer.q, sums, g * GROUP)


@kernel()
def _too_many(count: int, of: int, limit: float) -> Any:
    """Whether a sample of so many tells that there are more than the limit: by two of the standard
    deviations that drawing it has, as otherwise half the calls at the limit are tried in vain."""
    return limit < 1 and count > limit * of + 2 * np.sqrt(of * limit * (1 - limit))


@kernel()
def _crowded(x: Any, max_norm: float, layer: Any, rule: Any) -> Any:
    """Whether a few tokens have too many candidates among the first neurons.

    So a try in vain is short: it wakes no other thread.
    """
    count, tokens, lo = 0, x.shape[0], np.int64(0)  # a literal 0 would have callees compiled anew
    taken, hi = min(SAMPLE_TOKENS, tokens), min(layer.rows.shape[0], SAMPLE)
    rows = np.empty((taken, x.shape[1]), x.dtype)
    for m in range(taken):
        for j in range(x.shape[1]):
            rows[m, j] = x[tokens * m // taken, j]
    sample = Tokens(*take_tokens(rows, layer.q.shape[1] * QUAD, max_norm, rule.in_integers))
    sums = np.empty((taken, -(-hi // GROUP) * GROUP), np.float64)
    index = np.empty(hi, np.int32)
    _sums(lo, hi, sample, layer, rule, sums)
    for m in range(taken):
        count += select(lo, hi, m, sample, sums, layer, rule, index)
    return _too_many(count, hi * taken, rule.limit)


@kernel()
def _try(b: int, tokens: Any, layer: Any, rule: Any, s: Any, limit: float) -> None:
    """Sketch and confirm one block of neurons. Its counts: candidates, gave up, stale."""
    if s.counts[0, 1]:  # the verdict is known: nothing is done in vain
        return
    d_ff, many = layer.rows.shape[0], tokens.x.shape[0]
    lo = b * BLOCK
    hi = min(lo + BLOCK, d_ff)
    prefetch_row(layer.scale, 0, lo, hi)
    prefetch_row(layer.radius, 0, lo, hi)
    prefetch_row(layer.own_norm, 0, lo, hi)
    prefetch_row(layer.row_sum, 0, lo, hi)
    prefetch_row(layer.bias, 0, lo, hi)
    _sums(lo, hi, tokens, layer, rule, s.sums)
    s.counts[b, 0] = 0
    for m in range(many):
        s.found[b, m] = select(lo, hi, m, tokens, s.sums, layer, rule, s.candidates[m])
        s.counts[b, 0] += s.found[b, m]
    s.counts[b, 1] = _too_many(s.counts[b, 0], (hi - lo) * many, limit)
    if s.counts[b, 1]:
        return
    s.counts[b, 2] = watched_changed(layer, lo, hi, rule.turn)
    for m in range(many):
        actives = _confirm(lo, m, tokens, s.sums, layer, rule, s.candidates[m], s.found[b, m],
                           s.active[m], s.active_h[m])  # fmt: skip
        s.counts[b, 2] |= actives == -1
        s.counts[b, 3] |= actives == -2
        s.found[b, m] = max(actives, 0)


@kernel()
def _settle(tokens: Any, layer: Any, rule: Any, norm: Any, s: Any, verdict: Any) -> None:
    """Between the steps: the verdict, and the blocks' active neurons in one list, normalised.

    verdict: zeros; becomes DONE, DENSE or STALE, active neurons, candidates. (Loops instead of sums
    and copies of arrays here and elsewhere: each kind of those takes Numba 0.1 to 3 s to compile.)
    """
    blocks, crowded, stale, beyond = s.found.shape[0], 0, 0, 0
    for b in range(blocks):
        crowded += s.counts[b, 1]
    # The first block decides, so that the others need not be tried; or most of them.
    if s.counts[0, 1] or 2 * crowded > blocks:
        verdict[0] = DENSE
        return
    for b in range(blocks):
        if s.counts[b, 1]:  # rare: a few crowded blocks among sparse ones
            _try(b, tokens, layer, rule, s, np.inf)
        verdict[2] += s.counts[b, 0]
        stale |= s.counts[b, 2]
        beyond |= s.counts[b, 3]
    for m in range(s.found.shape[1]):
        at = 0
        for b in range(blocks):
            for p in range(b * BLOCK, b * BLOCK + s.found[b, m]):
                s.active[m, at] = s.active[m, p]
                s.active_h[m, at] = s.active_h[m, p]
                at += 1
        s.lengths[m] = at
        verdict[1] += at
    verdict[0] = STALE if stale else DENSE if beyond else DONE
    if norm.weight.size > 0 and not normalise(norm, s.active, s.active_h, s.lengths):
        verdict[0] = DENSE


@kernel()
def _block(b: int, who: int, tokens: Any, layer: Any, rule: Any, s: Any) -> None:
    _try(b, tokens, layer, rule, s, rule.limit)


@kernel()
def _columns(chunk: int, who: int, layer: Any, s: Any, out: Any) -> None:
    """out[:, chunk]: the active neurons' values, neuron by neuron, and the bias."""
    lo = chunk * CHUNK
    hi = min(lo + CHUNK, out.shape[1])
    for m in range(out.shape[0]):
        s.total[m, lo:hi] = 0
        add_list(s.total, m, lo, layer.values, lo, hi - lo, s.active[m], s.active_h[m], 0,
                 s.lengths[m], True)  # fmt: skip
        for j in range(lo, hi):
            put_rounded(out, m, j, s.total[m, j] + as_float(layer.value_bias[j]))


@kernel()
def run(
    x: Any, q: Any, scale: Any, radius: Any, own_norm: Any, row_sum: Any, rows: Any, bias: Any,
    factors: Any, factor_bias: Any, values: Any, value_bias: Any, live_gates: Any,
    live_factors: Any, live_values: Any, copied: Any, corner: Any, first: Any, sums: Any,
    max_norm: float, slack: float, threshold: float, code: int, gated: bool, in_integers: bool,
    limit: float, everything: bool, turn: int, norm: Any, eps: float, out: Any, totals: Any,
    team: Any,
) -> int:  # fmt: skip
    """out = f(x rows^T + bias) values + value_bias, by `team`.

    Gated: f(x rows^T + bias) * (x factors^T + factor_bias) in place of f(...). With a norm, that
    normalised.

    The arguments are those of `Layer`, `Rule` and `Norm`, one by one: Numba unpacks a tuple of
    arrays ten times slower than as many arrays. x, out: (tokens, d_model), of the weights' type.
    max_norm: the largest norm among rows and factors. totals: (2,) int64; the numbers of active
    neurons and of candidates are added to it. limit > 1: never give up. team: `team_for`'s.

    Gives DONE; DENSE, `out` unwritten, if the first neurons, or most blocks, have more candidates,
    a float16 layer overflows, or the norm's weights are not finite; STALE if the weights are not
    those that were sketched.
    """
    layer = Layer(
        q, scale, radius, own_norm, row_sum, rows, bias, factors, factor_bias, values, value_bias,
        live_gates, live_factors, live_values, copied, corner, first, sums,
    )  # fmt: skip
    rule = Rule(threshold, code, slack, gated, in_integers, limit, everything, turn)
    # One or two tokens: the first block is sample enough. Another was 5 to 10 % of their time.
    if limit < 1 and x.shape[0] > 2 and _crowded(x, max_norm, layer, rule):
        return DENSE
    tokens = Tokens(*take_tokens(x, q.shape[1] * QUAD, max_norm, in_integers))
    s = Scratch(*_room(x.shape[0], rows.shape[0], q.shape[0] * GROUP, x.shape[1]))
    spread(_block, team, s.found.shape[0], (tokens, layer, rule, s))
    verdict = np.zeros(3, np.int64)
    _settle(tokens, layer, rule, Norm(norm, eps), s, verdict)
    if verdict[0] == DONE:
        spread(_columns, team, -(-out.shape[1] // CHUNK), (layer, s, out))
        totals[0] += verdict[1]
        totals[1] += verdict[2]
    return int(verdict[0])
