"""Activation and second product for many tokens: only the rows of W2 whose neuron is active.

z comes from a dense first product. Each token's active neurons are listed, and the values are
summed in chunks of columns that stay in registers, a block of neurons at a time, whose values stay
in the second-level cache while all tokens pass by. Every column of every token is one chain of
multiply-adds in the neurons' order, whatever the blocks and the threads.
"""

from typing import Any

import numpy as np
from numba import njit, prange

from reluctant.kernels.activate import activate, is_active
from reluctant.kernels.rows import CHUNK, add_list

NEURONS = 1024  # of a block: 1024 x 128 float32 are 512 KB
TOKENS = 128  # of a task, so that there are tasks enough for many threads

_STRICT: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(**_STRICT)
def _count(z: Any, threshold: float, code: int) -> Any:
    total = 0
    for i in range(z.shape[0]):
        total += is_active(code, threshold, z[i])
    return total


@njit(**_STRICT)
def _list(z: Any, threshold: float, code: int, start: int, bounds: Any, index: Any,
          weight: Any) -> None:  # fmt: skip
    """Lists the active neurons and their f(z) from `start` on, and where each block's begin."""
    at = start
    for block in range(bounds.shape[0] - 1):
        bounds[block] = at
        for i in range(block * NEURONS, min((block + 1) * NEURONS, z.shape[0])):
            # Without a branch, which would be mispredicted at every active neuron. The write
            # past a list's end falls into the one place kept free between two lists.
            index[at] = i
            weight[at] = z[i]
            at += is_active(code, threshold, z[i])
    bounds[-1] = at
    for p in range(start, at):
        weight[p] = activate(code, weight[p])


@njit(**_STRICT)
def _starts(counts: Any) -> Any:
    """Where each token's list starts: one free place between two lists."""
    starts = np.empty(counts.shape[0] + 1, np.int64)
    starts[0] = 0
    for m in range(counts.shape[0]):
        starts[m + 1] = starts[m] + counts[m] + 1
    return starts


@njit(**_STRICT)
def _task(task: int, groups: int, bounds: Any, index: Any, weight: Any, values: Any,
          bias: Any, out: Any) -> None:  # fmt: skip
    """One chunk of columns for one group of tokens."""
    tokens, d = out.shape
    lo = (task // groups) * CHUNK
    hi = min(lo + CHUNK, d)
    first = (task % groups) * TOKENS
    last = min(first + TOKENS, tokens)
    out[first:last, lo:hi] = 0
    for block in range(bounds.shape[1] - 1):
        for m in range(first, last):
            start, stop = bounds[m, block], bounds[m, block + 1]
            add_list(out, m, lo, hi, values, index, weight, start, stop)
    for m in range(first, last):
        for j in range(lo, hi):
            out[m, j] += bias[j]


@njit(**_STRICT)
def combine_serial(z: Any, threshold: float, code: int, values: Any, bias: Any, limit: float,
                   out: Any) -> int:  # fmt: skip
    """out = f(z) @ values + bias over the active neurons. Their number, or -1 if above `limit`.

    z: (m, d_ff); values: (d_ff, d); bias: (d,); out: (m, d); all float32, C-contiguous.
    threshold: f is exactly zero at and below it; code: which f (`codes`).
    limit: the largest share of active neurons that is served; above it, `out` is not written.
    """
    tokens, d_ff = z.shape
    counts = np.empty(tokens, np.int64)
    for m in range(tokens):
        counts[m] = _count(z[m], threshold, code)
    active = counts.sum()
    if active > limit * tokens * d_ff:
        return -1
    starts = _starts(counts)
    index, weight = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    bounds = np.empty((tokens, -(-d_ff // NEURONS) + 1), np.int64)
    for m in range(tokens):
        _list(z[m], threshold, code, starts[m], bounds[m], index, weight)
    groups = -(-tokens // TOKENS)
    for task in range(-(-out.shape[1] // CHUNK) * groups):
        _task(task, groups, bounds, index, weight, values, bias, out)
    return int(active)


@njit(parallel=True, **_STRICT)
def combine_parallel(z: Any, threshold: float, code: int, values: Any, bias: Any, limit: float,
                     out: Any) -> int:  # fmt: skip
    """`combine_serial` on Numba's threads."""
    tokens, d_ff = z.shape
    counts = np.empty(tokens, np.int64)
    for m in prange(tokens):
        counts[m] = _count(z[m], threshold, code)
    active = counts.sum()
    if active > limit * tokens * d_ff:
        return -1
    starts = _starts(counts)
    index, weight = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    bounds = np.empty((tokens, -(-d_ff // NEURONS) + 1), np.int64)
    for m in prange(tokens):
        _list(z[m], threshold, code, starts[m], bounds[m], index, weight)
    groups = -(-tokens // TOKENS)
    for task in prange(-(-out.shape[1] // CHUNK) * groups):
        _task(task, groups, bounds, index, weight, values, bias, out)
    return int(active)
