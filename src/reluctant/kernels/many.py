"""Activation and second product for many tokens: only the rows of W2 whose neuron is active.

z comes from a dense first product. Each token's active neurons are listed, and their values are
summed in strips of columns, a block of neurons at a time, whose values stay in the second-level
cache while all tokens pass by. Every column of every token is summed in the neurons' order, in one
grouping, whatever the tasks and the threads.
"""

from typing import Any

import numpy as np
from numba import njit

from reluctant.kernels.activate import activate, is_active
from reluctant.kernels.codes import HARDSWISH
from reluctant.kernels.rows import CHUNK, add_list
from reluctant.kernels.team import spread
from reluctant.kernels.vector import above, count_bits, lowest_bit

STRIP = 256  # columns of a task
TOKENS = 256  # of a task: there have to be tasks enough for many threads
# Values of a block of neurons. Strips of rows that are a power of two long fall into a part of the
# cache's sets only, as large as the whole rows would fill: so that is what has to fit.
BLOCK_BYTES = 2**20
BITS = 64

_STRICT: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(**_STRICT)
def _lowest(code: int) -> Any:
    """Below which a z is active again: -inf is, where f(-inf) is NaN."""
    return np.float32(-3.4028235e38) if code == HARDSWISH else np.float32(-np.inf)


@njit(**_STRICT)
def _count(z: Any, m: int, threshold: float, code: int) -> Any:
    """How many neurons are active for token m, 64 at a time."""
    d_ff = z.shape[1]
    whole = d_ff // BITS * BITS
    total = 0
    for c in range(0, whole, BITS):
        total += count_bits(above(z, m, c, threshold, _lowest(code)))
    for i in range(whole, d_ff):
        total += is_active(code, threshold, z[m, i])
    return total


@njit(**_STRICT)
def _list(z: Any, m: int, threshold: float, code: int, at: int, size: int, bounds: Any,
          index: Any, weight: Any) -> None:  # fmt: skip
    """Lists token m's active neurons and their f(z) from `at` on, and where each block begins.

    Bit by bit: the work is that of the active neurons, not of all.
    """
    d_ff = z.shape[1]
    whole = d_ff // BITS * BITS
    for c in range(0, whole, BITS):
        if c % size == 0:
            bounds[c // size] = at
        bits = above(z, m, c, threshold, _lowest(code))
        while bits != 0:
            i = c + lowest_bit(bits)
            index[at] = i
            weight[at] = activate(code, z[m, i])
            at += 1
            bits &= bits - np.uint64(1)
    for i in range(whole, d_ff):
        if i % size == 0:
            bounds[i // size] = at
        if is_active(code, threshold, z[m, i]):
            index[at] = i
            weight[at] = activate(code, z[m, i])
            at += 1
    bounds[-1] = at


@njit(**_STRICT)
def _block_size(d: int) -> Any:
    """Neurons of a block: a multiple of 64."""
    return max(BLOCK_BYTES // (4 * d) // BITS, 1) * BITS


@njit(**_STRICT)
def _starts(counts: Any) -> Any:
    """Where each token's list starts, and where the last one ends."""
    starts = np.zeros(counts.shape[0] + 1, np.int64)
    for m in range(counts.shape[0]):
        starts[m + 1] = starts[m] + counts[m]
    return starts


@njit(**_STRICT)
def _task(task: int, groups: int, bounds: Any, index: Any, weight: Any, values: Any,
          bias: Any, out: Any) -> None:  # fmt: skip
    """One strip of columns for one group of tokens."""
    tokens, d = out.shape
    left = (task // groups) * STRIP
    right = min(left + STRIP, d)
    first = (task % groups) * TOKENS
    last = min(first + TOKENS, tokens)
    out[first:last, left:right] = 0
    for block in range(bounds.shape[1] - 1):
        for m in range(first, last):
            start, stop = bounds[m, block], bounds[m, block + 1]
            for lo in range(left, right, CHUNK):
                add_list(out, m, lo, min(lo + CHUNK, right), values, index, weight, start, stop)
    for m in range(first, last):
        for j in range(left, right):
            out[m, j] += bias[j]


@njit(**_STRICT)
def _share_counts(thread: int, threads: int, z: Any, threshold: float, code: int,
                  counts: Any) -> None:  # fmt: skip
    tokens = z.shape[0]
    for m in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        counts[m] = _count(z, m, threshold, code)


@njit(**_STRICT)
def _share_lists(thread: int, threads: int, z: Any, threshold: float, code: int, starts: Any,
                 size: int, bounds: Any, index: Any, weight: Any) -> None:  # fmt: skip
    tokens = z.shape[0]
    for m in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        _list(z, m, threshold, code, starts[m], size, bounds[m], index, weight)


@njit(**_STRICT)
def _share_tasks(thread: int, threads: int, bounds: Any, index: Any, weight: Any, values: Any,
                 bias: Any, out: Any) -> None:  # fmt: skip
    groups = -(-out.shape[0] // TOKENS)
    tasks = -(-out.shape[1] // STRIP) * groups
    for task in range(tasks * thread // threads, tasks * (thread + 1) // threads):
        _task(task, groups, bounds, index, weight, values, bias, out)


@njit(**_STRICT)
def combine(z: Any, threshold: float, code: int, values: Any, bias: Any, limit: float, out: Any,
            threads: int, pool: Any) -> int:  # fmt: skip
    """out = f(z) @ values + bias over the active neurons. Their number, or -1 if above `limit`.

    z: (m, d_ff); values: (d_ff, d); bias: (d,); out: (m, d); all float32, C-contiguous.
    threshold: f is exactly zero at and below it; code: which f (`codes`).
    limit: the largest share of active neurons that is served; above it, `out` is not written.
    """
    tokens, d_ff = z.shape
    counts = np.empty(tokens, np.int64)
    spread(_share_counts, pool, threads, (z, threshold, code, counts))
    active = counts.sum()
    if active > limit * tokens * d_ff:
        return -1
    starts = _starts(counts)
    index, weight = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    size = _block_size(out.shape[1])
    bounds = np.empty((tokens, -(-d_ff // size) + 1), np.int64)
    lists = (z, threshold, code, starts, size, bounds, index, weight)
    spread(_share_lists, pool, threads, lists)
    spread(_share_tasks, pool, threads, (bounds, index, weight, values, bias, out))
    return int(active)
