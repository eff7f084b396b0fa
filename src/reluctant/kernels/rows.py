"""Sums of value rows: what the few- and the many-token kernels end with."""

from typing import Any

from numba import njit

from reluctant.kernels.vector import add_rows

CHUNK = 128  # columns whose sums fit in 8 registers
_SEGMENT = 32  # rows a chain: long chains of additions lose accuracy, short ones time

_add_chunk = add_rows(CHUNK // 16)
_add_vector = add_rows(1)
_add_column = add_rows(0)


@njit(nogil=True, cache=True, error_model="numpy")
def add_list(out: Any, m: int, lo: int, hi: int, values: Any, index: Any, weight: Any,
             start: int, stop: int) -> None:  # fmt: skip
    """out[m, lo:hi] += sum over p in start..stop of weight[p] * values[index[p], lo:hi].

    hi - lo is at most CHUNK. The order of each column's additions depends on nothing but the list.
    """
    for first in range(start, stop, _SEGMENT):
        last = min(first + _SEGMENT, stop)
        j = lo
        if hi - lo == CHUNK:
            _add_chunk(out, m, lo, values, index, weight, first, last, stop)
            j = hi
        while j + 16 <= hi:
            _add_vector(out, m, j, values, index, weight, first, last, stop)
            j += 16
        while j < hi:
            _add_column(out, m, j, values, index, weight, first, last, stop)
            j += 1
