"""The few-token kernel: 1 to 16 rows of x, and only the neurons that may be active.

Three steps. *Sketch*: the int8 rows against x; a neuron whose upper bound stays below the threshold
is a certified zero (`reluctant.sketch` has the proof), the others are candidates. *Confirm*: the
candidates' pre-activations from the real keys. *Values*: the sum of the active neurons' values.

The neurons are divided into a fixed number of blocks for the first two steps, the columns into
fixed chunks for the third; every sum has one order. So the bits depend neither on the number of
threads nor on which neurons the sketch could rule out: a zero that is confirmed instead of
certified adds nothing to any sum.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from reluctant.kernels.activate import activate, is_active
from reluctant.kernels.rows import CHUNK, add_list
from reluctant.kernels.sums import Tokens, float_sums, integer_sums, take_tokens
from reluctant.kernels.team import spread
from reluctant.kernels.vector import GROUP, TILE, key_dot
from reluctant.kernels.watch import probes_changed, row_changed

MAX_TOKENS = 16
BLOCKS = 16
BLOCK_FLOOR = 128  # neurons: a smaller block is not worth its loop
WATCH = 4  # one block in so many compares a row with its sketch, in turn
HUGE = 2.0**126  # an |e| from here on is never certified: z might overflow

DONE, DENSE, STALE = 0, 1, 2

_STRICT: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


class Layer(NamedTuple):
    """What the kernel reads: the sketch, and views of the weights themselves.

    q: (d_ff / 4, d_model / 64, 4, 64) int8, both rounded up; scale, radius, own_norm, bias: (d_ff,)
    float32; row_sum: (d_ff,) int64; keys, values: (d_ff, d_model) float32; value_bias: (d_model,)
    float32; probe_at: (p,) int64 flat positions in keys; probe: (p,) float32, what stood there.
    """

    q: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    radius: npt.NDArray[np.float32]
    own_norm: npt.NDArray[np.float32]
    row_sum: npt.NDArray[np.int64]
    keys: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    values: npt.NDArray[np.float32]
    value_bias: npt.NDArray[np.float32]
    probe_at: npt.NDArray[np.int64]
    probe: npt.NDArray[np.float32]


class Rule(NamedTuple):
    """The numbers of one call.

    threshold: f is exactly zero at and below it; code: the activation (`codes`);
    slack: the share of |bias| in the bound; in_integers: which sketch pass (`sums`);
    everything: treat every neuron as a candidate; turn: a counter that moves the rows on watch.
    """

    threshold: float
    code: int
    slack: float
    in_integers: bool
    everything: bool
    turn: int


@njit(**_STRICT)
def _estimate(i: int, total: float, layer: Any, rule: Any, norm: float, loss: float) -> Any:
    """e, and how far z may be from it, of neuron i for the x whose <q, x> is about `total`."""
    bias = np.float64(layer.bias[i])
    e = np.float64(layer.scale[i]) * total + bias
    room = norm * np.float64(layer.radius[i]) + loss * np.float64(layer.own_norm[i])
    return e, room + rule.slack * abs(bias)


@njit(**_STRICT)
def _select(lo: int, hi: int, m: int, tokens: Any, sums: Any, layer: Any, rule: Any, kept: Any,
            index: Any) -> Any:  # fmt: skip
    """One token's candidates among neurons lo..hi, listed in index from lo on; how many."""
    norm, loss = tokens.norm[m], tokens.loss[m]
    for i in range(lo, hi):  # apart from the next loop, so that it is vectorised
        e, room = _estimate(i, sums[i], layer, rule, norm, loss)
        # Written so that NaN, wherever it comes from, makes a candidate.
        kept[i] = not ((e + room < rule.threshold) & (abs(e) < HUGE))
    count = 0
    for i in range(lo, hi):  # without a branch, which would be mispredicted at every candidate
        index[lo + count] = i
        count += kept[i] | rule.everything
    return count


@njit(**_STRICT)
def _confirm(lo: int, m: int, tokens: Any, sums: Any, layer: Any, rule: Any, index: Any,
             count: int, active: Any, active_h: Any) -> Any:  # fmt: skip
    """One token's candidates: their real pre-activations, the active ones listed from `lo` on.

    How many are active; -1 if one contradicts its sketch (stale weights).
    """
    d = layer.keys.shape[1]
    stale = False
    at = lo
    for p in range(count):
        i = index[lo + p]
        z = key_dot(layer.keys, i, tokens.x, m, d) + layer.bias[i]
        e, room = _estimate(i, sums[i], layer, rule, tokens.norm[m], tokens.loss[m])
        stale |= (abs(np.float64(z) - e) > room) & (abs(e) < HUGE)
        if is_active(rule.code, rule.threshold, z):
            active[at] = i
            active_h[at] = activate(rule.code, z)
            at += 1
    return -1 if stale else at - lo


@njit(**_STRICT)
def _block(b: int, size: int, tokens: Any, layer: Any, rule: Any, scratch: Any,
           limit: float) -> None:  # fmt: skip
    """Sketch and confirm one block of neurons. Its counts: candidates, gave up, stale."""
    sums, kept, index, active, active_h, found, counts = scratch
    d_ff, many = layer.keys.shape[0], tokens.x.shape[0]
    lo = min(b * size, d_ff)
    hi = min(lo + size, d_ff)
    if lo == hi:
        return
    if rule.in_integers:
        integer_sums(lo, hi, tokens, layer.q, layer.row_sum, sums)
    else:
        float_sums(lo, hi, tokens, layer.q, sums)
    counts[b, 0] = 0
    for m in range(many):
        found[b, m] = _select(lo, hi, m, tokens, sums[m], layer, rule, kept, index[m])
        counts[b, 0] += found[b, m]
    counts[b, 1] = counts[b, 0] > limit * (hi - lo) * many
    if counts[b, 1]:
        return
    if rule.turn % WATCH == b % WATCH:
        counts[b, 2] = row_changed(layer, lo + rule.turn // WATCH % (hi - lo))
    for m in range(many):
        actives = _confirm(lo, m, tokens, sums[m], layer, rule, index[m], found[b, m],
                           active[m], active_h[m])  # fmt: skip
        counts[b, 2] |= actives < 0
        found[b, m] = max(actives, 0)


@njit(**_STRICT)
def _share_blocks(thread: int, threads: int, size: int, tokens: Any, layer: Any, rule: Any,
                  scratch: Any, limit: float) -> None:  # fmt: skip
    for b in range(BLOCKS * thread // threads, BLOCKS * (thread + 1) // threads):
        _block(b, size, tokens, layer, rule, scratch, limit)


@njit(**_STRICT)
def _join(size: int, active: Any, active_h: Any, found: Any) -> Any:
    """Closes the gaps between the blocks' lists. Gives each token's number of active neurons."""
    blocks, tokens = found.shape
    lengths = np.zeros(tokens, np.int64)
    for m in range(tokens):
        at = 0
        for b in range(blocks):
            lo = b * size
            for k in range(found[b, m]):
                active[m, at] = active[m, lo + k]
                active_h[m, at] = active_h[m, lo + k]
                at += 1
        lengths[m] = at
    return lengths


@njit(**_STRICT)
def _columns(chunk: int, layer: Any, active: Any, active_h: Any, lengths: Any, out: Any) -> None:
    """out[:, chunk]: the active neurons' values, neuron by neuron, and the bias."""
    lo = chunk * CHUNK
    hi = min(lo + CHUNK, out.shape[1])
    for m in range(out.shape[0]):
        out[m, lo:hi] = 0
        add_list(out, m, lo, hi, layer.values, active[m], active_h[m], 0, lengths[m])
        for j in range(lo, hi):
            out[m, j] += layer.value_bias[j]


@njit(**_STRICT)
def _share_columns(thread: int, threads: int, layer: Any, active: Any, active_h: Any, lengths: Any,
                   out: Any) -> None:  # fmt: skip
    chunks = -(-out.shape[1] // CHUNK)
    for chunk in range(chunks * thread // threads, chunks * (thread + 1) // threads):
        _columns(chunk, layer, active, active_h, lengths, out)


@njit(**_STRICT)
def _scratch(tokens: int, d_ff: int, padded_d_ff: int) -> Any:
    """All in one place: an allocation costs as much as a row of the sketch."""
    sums = np.empty((tokens, padded_d_ff), np.float64)
    kept = np.empty(d_ff, np.bool_)
    index = np.empty((tokens, d_ff), np.int32)
    active = np.empty((tokens, d_ff), np.int32)
    active_h = np.empty((tokens, d_ff), np.float32)
    found = np.zeros((BLOCKS, tokens), np.int64)  # candidates, then active neurons
    counts = np.zeros((BLOCKS, 8), np.int64)  # a cache line a block: threads do not share one
    return sums, kept, index, active, active_h, found, counts


@njit(**_STRICT)
def _block_size(d_ff: int) -> Any:
    return max((-(-d_ff // BLOCKS) + 3) // 4 * 4, BLOCK_FLOOR)


@njit(**_STRICT)
def _too_many(counts: Any, d_ff: int, size: int) -> Any:
    """Whether most blocks gave up: then dense is faster for this call."""
    return 2 * size * counts[:, 1].sum() > d_ff


@njit(**_STRICT)
def run(
    x: Any, q: Any, scale: Any, radius: Any, own_norm: Any, row_sum: Any, keys: Any, bias: Any,
    values: Any, value_bias: Any, probe_at: Any, probe: Any, max_norm: float, slack: float,
    threshold: float, code: int, in_integers: bool, limit: float, everything: bool, turn: int,
    out: Any, totals: Any, threads: int, pool: Any,
) -> int:  # fmt: skip
    """out = f(x keys^T + bias) values + value_bias, on `threads` threads of `pool`.

    The arguments are those of `Layer` and `Rule`, one by one: Numba unpacks a tuple of arrays ten
    times slower than as many arrays. out: like x, (tokens, d_model) float32. totals: (2,) int64;
    the numbers of active neurons and of candidates are added to it.

    limit: the share of a block's (neuron, token) pairs above which it gives up (> 1: never).

    Gives DONE; DENSE, `out` unwritten, if most blocks gave up; STALE if the weights are not those
    that were sketched.
    """
    layer = Layer(
        q, scale, radius, own_norm, row_sum, keys, bias, values, value_bias, probe_at, probe
    )
    rule = Rule(threshold, code, slack, in_integers, everything, turn)
    if probes_changed(layer):
        return STALE
    tokens = Tokens(*take_tokens(x, q.shape[1] * TILE, max_norm, in_integers))
    d_ff = keys.shape[0]
    scratch = _scratch(x.shape[0], d_ff, q.shape[0] * GROUP)
    _, _, _, active, active_h, found, counts = scratch
    size = _block_size(d_ff)
    spread(_share_blocks, pool, threads, (size, tokens, layer, rule, scratch, limit))
    if _too_many(counts, d_ff, size):
        return DENSE
    for b in range(BLOCKS):  # rare: a few crowded blocks among sparse ones
        if counts[b, 1]:
            _block(b, size, tokens, layer, rule, scratch, np.inf)
    lengths = _join(size, active, active_h, found)
    spread(_share_columns, pool, threads, (layer, active, active_h, lengths, out))
    totals[0] += lengths.sum()
    totals[1] += counts[:, 0].sum()
    return STALE if counts[:, 2].sum() > 0 else DONE
