"""The sketch's pass over x: <q, x> for each neuron, in float32 or in integers."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from reluctant.kernels import integer
from reluctant.kernels.vector import GROUP, TILE, tile_dot

TINY_NORM = 2.0**-40  # nothing is certified for an ||x|| below this: underflow
HUGE_PRODUCT = 2.0**125  # nor for ||x|| max ||k|| from here on: overflow
_MIDDLE = 2**15
_ROOM = 1.0 + 2.0**-40  # rounds a float64 norm up, generously

_STRICT: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}

_float_1, _float_2, _float_4 = tile_dot(1), tile_dot(2), tile_dot(4)

INTEGER = integer.available()

if INTEGER:
    _bytes_1, _bytes_2 = integer.byte_dot(1), integer.byte_dot(2)
else:  # never chosen by the engine: there so that the same tests run everywhere

    @njit(**_STRICT)
    def _bytes_one(q: Any, g: int, r: int, planes: Any, m: int, d: int) -> Any:
        total = np.int64(0)
        for j in range(d):
            x = 256 * np.int64(planes[2 * m, j]) + np.int64(planes[2 * m + 1, j])
            total += np.int64(q[g, j // TILE, r, j % TILE]) * x
        return total

    @njit(**_STRICT)
    def _bytes_1(q: Any, g: int, planes: Any, m: int, d: int) -> Any:
        return (
            _bytes_one(q, g, 0, planes, m, d),
            _bytes_one(q, g, 1, planes, m, d),
            _bytes_one(q, g, 2, planes, m, d),
            _bytes_one(q, g, 3, planes, m, d),
        )

    @njit(**_STRICT)
    def _bytes_2(q: Any, g: int, planes: Any, m: int, d: int) -> Any:
        a, b = _bytes_1(q, g, planes, m, d), _bytes_1(q, g, planes, m + 1, d)
        return a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3]


class Tokens(NamedTuple):
    """x as the kernel uses it. `padded` d: a multiple of 64, zeros (or no weight) in the padding.

    x: (tokens, padded d) float32; norm: (tokens,) float64, ||x|| rounded up, infinite where nothing
    may be certified; planes: (2 * tokens, padded d) uint8, the high and low bytes of 16-bit numbers
    X with x ~ step (X - 2^15); step: (tokens,) float64; loss: (tokens,) float64, at least
    ||x - step (X - 2^15)||, 0 where the float32 pass is used.
    """

    x: npt.NDArray[np.float32]
    norm: npt.NDArray[np.float64]
    planes: npt.NDArray[np.uint8]
    step: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]


@njit(fastmath={"reassoc", "contract"}, **_STRICT)
def _sum_of_squares(x: Any) -> Any:
    """In float64, where the squares of float32 subnormals do not vanish."""
    total = 0.0
    for j in range(x.shape[0]):
        total += np.float64(x[j]) * np.float64(x[j])
    return total


@njit(**_STRICT)
def upper_norm(x: Any, max_norm: float) -> Any:
    """||x|| rounded up; infinity, which certifies nothing, where it is tiny, huge or NaN."""
    norm = np.sqrt(_sum_of_squares(x)) * _ROOM
    if norm >= TINY_NORM and norm * max_norm < HUGE_PRODUCT:
        return norm
    return np.inf


@njit(fastmath={"reassoc", "contract"}, **_STRICT)
def _to_planes(x: Any, step: float, high: Any, low: Any) -> Any:
    """Writes x as 16-bit numbers; gives the sum of the squared losses."""
    inverse = 1.0 / step
    total = 0.0
    for j in range(x.shape[0]):
        rounded = np.rint(np.float64(x[j]) * inverse)
        number = np.int32(rounded) + _MIDDLE
        high[j] = number >> 8
        low[j] = number & 255
        off = np.float64(x[j]) - step * rounded
        total += off * off
    return total


@njit(**_STRICT)
def take_tokens(x: Any, padded_d: int, max_norm: float, in_integers: bool) -> Any:
    """The fields of `Tokens`, from x, (tokens, d) float32."""
    tokens, d = x.shape
    padded = np.zeros((tokens, padded_d), np.float32)
    norm, step, loss = np.empty(tokens), np.zeros(tokens), np.zeros(tokens)
    planes = np.zeros((2 * tokens, padded_d if in_integers else 0), np.uint8)
    for m in range(tokens):
        padded[m, :d] = x[m]
        norm[m] = upper_norm(x[m], max_norm)
        if in_integers and norm[m] < np.inf:
            largest = np.float32(0.0)
            for j in range(d):
                largest = max(largest, abs(x[m, j]))
            step[m] = np.float64(largest) / 32767.0
            squared = _to_planes(x[m], step[m], planes[2 * m], planes[2 * m + 1])
            # The differences are rounded, too: by at most 2^-52 |x_j| each.
            loss[m] = np.sqrt(squared) * _ROOM + norm[m] * 2.0**-50
    return padded, norm, planes, step, loss


@njit(**_STRICT)
def float_sums(lo: int, hi: int, tokens: Any, q: Any, sums: Any) -> None:
    """sums[m, i] = <q_i, x_m> for neurons lo..hi, in float32.

    Up to four tokens a pass, so that a row is widened to float32 once for all of them. lo is a
    multiple of four; q has rows, and sums columns, up to the next multiple after hi.
    """
    x, count, d = tokens.x, tokens.x.shape[0], q.shape[1] * TILE
    for i in range(lo, hi, GROUP):
        g = i // GROUP
        m = 0
        while m + 4 <= count:
            four = _float_4(q, g, x, m, d)
            for r in range(4):
                for t in range(4):
                    sums[m + t, i + r] = four[4 * r + t]
            m += 4
        if m + 2 <= count:
            two = _float_2(q, g, x, m, d)
            for r in range(4):
                for t in range(2):
                    sums[m + t, i + r] = two[2 * r + t]
            m += 2
        if m < count:
            one = _float_1(q, g, x, m, d)
            for r in range(4):
                sums[m, i + r] = one[r]


@njit(**_STRICT)
def integer_sums(lo: int, hi: int, tokens: Any, q: Any, row_sum: Any, sums: Any) -> None:
    """`float_sums` of the 16-bit x: exact in integers, then rounded once, to float64.

    row_sum: (d_ff,) int64, the rows' own sums, which take the middle of the 16 bits back out.
    """
    planes, step, count, d = tokens.planes, tokens.step, tokens.x.shape[0], q.shape[1] * TILE
    for i in range(lo, hi, GROUP):
        g = i // GROUP
        m = 0
        while m + 2 <= count:
            two = _bytes_2(q, g, planes, m, d)
            for r in range(4):
                for t in range(2):
                    sums[m + t, i + r] = two[2 * r + t]
            m += 2
        if m < count:
            one = _bytes_1(q, g, planes, m, d)
            for r in range(4):
                sums[m, i + r] = one[r]
    # The products are below 2^47: float64 has held them exactly so far.
    for m in range(count):
        for i in range(lo, hi):
            sums[m, i] = step[m] * (sums[m, i] - _MIDDLE * np.float64(row_sum[i]))
