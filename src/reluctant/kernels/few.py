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
from numba import njit, prange

from reluctant.kernels.activate import activate, is_active
from reluctant.kernels.rows import CHUNK, add_list
from reluctant.kernels.vector import dot
from reluctant.kernels.watch import probes_changed, row_changed

MAX_TOKENS = 16
BLOCKS = 16
BLOCK_FLOOR = 64  # neurons: a smaller block is not worth its loop
PADDING = 64  # the sketch's rows are padded to whole cache lines, so the int8 loops have no tail
HUGE = 2.0**126  # an |e| from here on is never certified: z might overflow
HUGE_PRODUCT = 2.0**125  # likewise ||x|| max ||k||
TINY_NORM = 2.0**-40  # nor is anything for an ||x|| below this: underflow

DONE, DENSE, STALE = 0, 1, 2

_STRICT: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}

_sketch_4x1 = dot(4, 1, 4, integer=True)
_sketch_4x2 = dot(4, 2, 2, integer=True)
_sketch_4x4 = dot(4, 4, 1, integer=True)
_sketch_1x1 = dot(1, 1, 4, integer=True)
_key_dot = dot(1, 1, 8, integer=False)


class Layer(NamedTuple):
    """What the kernel reads: the sketch, and views of the weights themselves.

    q: (d_ff, padded d_model) int8; scale, radius, bias: (d_ff,) float32;
    keys, values: (d_ff, d_model) float32; value_bias: (d_model,) float32;
    probe_at: (p,) int64 flat positions in keys; probe: (p,) float32, what stood there.
    """

    q: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    radius: npt.NDArray[np.float32]
    keys: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    values: npt.NDArray[np.float32]
    value_bias: npt.NDArray[np.float32]
    probe_at: npt.NDArray[np.int64]
    probe: npt.NDArray[np.float32]


class Rule(NamedTuple):
    """The numbers of one call.

    threshold: f is exactly zero at and below it; code: the activation (`codes`);
    slack: the share of |bias| in the bound; max_norm: the largest ||k||;
    limit: share of a block's (neuron, token) pairs above which the block gives up (> 1: never);
    everything: treat every neuron as a candidate; turn: a counter that moves the rows on watch.
    """

    threshold: float
    code: int
    slack: float
    max_norm: float
    limit: float
    everything: bool
    turn: int


@njit(fastmath={"reassoc", "contract"}, **_STRICT)
def _sum_of_squares(x: Any) -> Any:
    """In float64, where the squares of float32 subnormals do not vanish."""
    total = 0.0
    for j in range(x.shape[0]):
        total += np.float64(x[j]) * np.float64(x[j])
    return total


@njit(**_STRICT)
def _upper_norm(x: Any, max_norm: float) -> Any:
    """||x|| rounded up; infinity, which certifies nothing, where it is tiny, huge or NaN."""
    norm = np.sqrt(_sum_of_squares(x)) * (1.0 + 2.0**-40)
    if norm >= TINY_NORM and norm * max_norm < HUGE_PRODUCT:
        return norm
    return np.inf


@njit(**_STRICT)
def _sketch(lo: int, hi: int, x: Any, q: Any, sums: Any) -> None:
    """sums[m, i - lo] = <q_i, x_m> for neurons lo..hi: four rows a pass, so x is read a fourth as
    often, and up to four tokens, so a row is widened to float32 once for them.
    """
    tokens, d = x.shape[0], q.shape[1]
    i = lo
    while i + 4 <= hi:
        m = 0
        while m + 4 <= tokens:
            four = _sketch_4x4(q, i, x, m, d)
            for r in range(4):
                for t in range(4):
                    sums[m + t, i - lo + r] = four[4 * r + t]
            m += 4
        if m + 2 <= tokens:
            two = _sketch_4x2(q, i, x, m, d)
            for r in range(4):
                for t in range(2):
                    sums[m + t, i - lo + r] = two[2 * r + t]
            m += 2
        if m < tokens:
            one = _sketch_4x1(q, i, x, m, d)
            for r in range(4):
                sums[m, i - lo + r] = one[r]
        i += 4
    while i < hi:
        for m in range(tokens):
            sums[m, i - lo] = _sketch_1x1(q, i, x, m, d)[0]
        i += 1


@njit(**_STRICT)
def _select(lo: int, hi: int, sums: Any, layer: Any, rule: Any, norm: float, kept: Any,
            index: Any) -> Any:  # fmt: skip
    """The candidates among neurons lo..hi for one token: their numbers into index; how many."""
    for i in range(lo, hi):  # apart from the next loop, so that it is vectorised
        e = np.float64(layer.scale[i]) * np.float64(sums[i - lo]) + np.float64(layer.bias[i])
        room = norm * np.float64(layer.radius[i]) + rule.slack * abs(np.float64(layer.bias[i]))
        # Written so that NaN, wherever it comes from, makes a candidate.
        kept[i - lo] = not ((e + room < rule.threshold) & (abs(e) < HUGE))
    count = 0
    for i in range(lo, hi):  # without a branch, which would be mispredicted at every candidate
        index[count] = i
        count += kept[i - lo] | rule.everything
    return count


@njit(**_STRICT)
def _confirm(lo: int, m: int, x: Any, sums: Any, layer: Any, rule: Any, norm: float, index: Any,
             count: int, active: Any, active_h: Any) -> Any:  # fmt: skip
    """One token's candidates: their real pre-activations, the active ones listed from `lo` on.

    How many are active; -1 if one contradicts its sketch (stale weights).
    """
    d = layer.keys.shape[1]
    stale = False
    at = lo
    for p in range(count):
        i = index[p]
        z = _key_dot(layer.keys, i, x, m, d)[0] + layer.bias[i]
        bias = np.float64(layer.bias[i])
        e = np.float64(layer.scale[i]) * np.float64(sums[i - lo]) + bias
        room = norm * np.float64(layer.radius[i]) + rule.slack * abs(bias)
        stale |= (abs(np.float64(z) - e) > room) & (abs(e) < HUGE)
        if is_active(rule.code, rule.threshold, z):
            active[at] = i
            active_h[at] = activate(rule.code, z)
            at += 1
    return -1 if stale else at - lo


@njit(**_STRICT)
def _block(b: int, size: int, x: Any, layer: Any, rule: Any, norms: Any, scratch: Any,
           limit: float) -> None:  # fmt: skip
    """Sketch and confirm one block of neurons. Its counts: candidates, gave up, stale."""
    active, active_h, active_count, counts = scratch
    d_ff, tokens = layer.q.shape[0], x.shape[0]
    lo = min(b * size, d_ff)
    hi = min(lo + size, d_ff)
    if lo == hi:
        return
    sums = np.empty((tokens, hi - lo), np.float32)
    kept = np.empty(hi - lo, np.bool_)
    index = np.empty((tokens, hi - lo), np.int32)
    candidates = np.empty(tokens, np.int64)
    _sketch(lo, hi, x, layer.q, sums)
    for m in range(tokens):
        candidates[m] = _select(lo, hi, sums[m], layer, rule, norms[m], kept, index[m])
    counts[b, 0] = candidates.sum()
    counts[b, 1] = counts[b, 0] > limit * (hi - lo) * tokens
    if counts[b, 1]:
        return
    counts[b, 2] = row_changed(layer, lo + rule.turn % (hi - lo))
    for m in range(tokens):
        found = _confirm(lo, m, x, sums[m], layer, rule, norms[m], index[m], candidates[m],
                         active[m], active_h[m])  # fmt: skip
        counts[b, 2] |= found < 0
        active_count[b, m] = max(found, 0)


@njit(**_STRICT)
def _join(size: int, active: Any, active_h: Any, active_count: Any) -> Any:
    """Closes the gaps between the blocks' lists. Gives each token's number of active neurons."""
    blocks, tokens = active_count.shape
    lengths = np.zeros(tokens, np.int64)
    for m in range(tokens):
        at = 0
        for b in range(blocks):
            lo = b * size
            for k in range(active_count[b, m]):
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
def _prepare(x: Any, layer: Any, rule: Any) -> Any:
    """Padded x, its norms, and the scratch space."""
    tokens, d = x.shape
    d_ff = layer.q.shape[0]
    padded = np.zeros((tokens, layer.q.shape[1]), np.float32)
    norms = np.empty(tokens, np.float64)
    for m in range(tokens):
        padded[m, :d] = x[m]
        norms[m] = _upper_norm(x[m], rule.max_norm)
    active = np.empty((tokens, d_ff), np.int32)
    active_h = np.empty((tokens, d_ff), np.float32)
    active_count = np.zeros((BLOCKS, tokens), np.int64)
    counts = np.zeros((BLOCKS, 8), np.int64)  # a cache line a block: threads do not share one
    return padded, norms, (active, active_h, active_count, counts)


@njit(**_STRICT)
def _block_size(d_ff: int) -> Any:
    return max((-(-d_ff // BLOCKS) + 3) // 4 * 4, BLOCK_FLOOR)


@njit(**_STRICT)
def _too_many(counts: Any, d_ff: int, size: int) -> Any:
    """Whether most blocks gave up: then dense is faster for this call."""
    return 2 * size * counts[:, 1].sum() > d_ff


@njit(**_STRICT)
def run_serial(
    x: Any, q: Any, scale: Any, radius: Any, keys: Any, bias: Any, values: Any, value_bias: Any,
    probe_at: Any, probe: Any, max_norm: float, slack: float, threshold: float, code: int,
    limit: float, everything: bool, turn: int, out: Any, totals: Any,
) -> int:  # fmt: skip
    """out = f(x keys^T + bias) values + value_bias, on the thread that calls.

    The arguments are those of `Layer` and `Rule`, one by one: Numba unpacks a tuple of arrays ten
    times slower than as many arrays. out: like x, (tokens, d_model) float32. totals: (2,) int64;
    the numbers of active neurons and of candidates are added to it.

    Gives DONE; DENSE, `out` unwritten, if most blocks gave up; STALE if the weights are not those
    that were sketched.
    """
    layer = Layer(q, scale, radius, keys, bias, values, value_bias, probe_at, probe)
    rule = Rule(threshold, code, slack, max_norm, limit, everything, turn)
    if probes_changed(layer):
        return STALE
    padded, norms, scratch = _prepare(x, layer, rule)
    active, active_h, active_count, counts = scratch
    size = _block_size(layer.q.shape[0])
    for b in range(BLOCKS):
        _block(b, size, padded, layer, rule, norms, scratch, rule.limit)
    if _too_many(counts, q.shape[0], size):
        return DENSE
    for b in range(BLOCKS):
        if counts[b, 1]:
            _block(b, size, padded, layer, rule, norms, scratch, np.inf)
    lengths = _join(size, active, active_h, active_count)
    for chunk in range(-(-out.shape[1] // CHUNK)):
        _columns(chunk, layer, active, active_h, lengths, out)
    totals[0] += lengths.sum()
    totals[1] += counts[:, 0].sum()
    return STALE if counts[:, 2].sum() > 0 else DONE


@njit(parallel=True, **_STRICT)
def run_parallel(
    x: Any, q: Any, scale: Any, radius: Any, keys: Any, bias: Any, values: Any, value_bias: Any,
    probe_at: Any, probe: Any, max_norm: float, slack: float, threshold: float, code: int,
    limit: float, everything: bool, turn: int, out: Any, totals: Any,
) -> int:  # fmt: skip
    """`run_serial` on Numba's threads: the same steps, blocks and orders."""
    layer = Layer(q, scale, radius, keys, bias, values, value_bias, probe_at, probe)
    rule = Rule(threshold, code, slack, max_norm, limit, everything, turn)
    if probes_changed(layer):
        return STALE
    padded, norms, scratch = _prepare(x, layer, rule)
    active, active_h, active_count, counts = scratch
    size = _block_size(layer.q.shape[0])
    for b in prange(BLOCKS):
        _block(b, size, padded, layer, rule, norms, scratch, rule.limit)
    if _too_many(counts, q.shape[0], size):
        return DENSE
    for b in range(BLOCKS):  # rare: a few crowded blocks among sparse ones
        if counts[b, 1]:
            _block(b, size, padded, layer, rule, norms, scratch, np.inf)
    lengths = _join(size, active, active_h, active_count)
    for chunk in prange(-(-out.shape[1] // CHUNK)):
        _columns(chunk, layer, active, active_h, lengths, out)
    totals[0] += lengths.sum()
    totals[1] += counts[:, 0].sum()
    return STALE if counts[:, 2].sum() > 0 else DONE
