"""The sketch's pass over x: <q, x> for each neuron, in float32 or in integers."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reluctant.kernels import integer
from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import as_float
from reluctant.kernels.lanes import GROUP, QUAD, byte_pass, float_pass

TINY_NORM = 2.0**-40  # nothing is certified for an ||x|| below this: underflow
HUGE_PRODUCT = 2.0**125  # nor for ||x|| max ||k|| from here on: overflow
_MIDDLE = 2**15
_ROOM = 1.0 + 2.0**-40  # rounds a float64 norm up, generously

_float_1, _float_2, _float_4 = float_pass(1), float_pass(2), float_pass(4)

INTEGER = integer.available()

if INTEGER:
    _bytes_1, _bytes_2, _bytes_3 = byte_pass(1), byte_pass(2), byte_pass(3)
else:  # never chosen by the engine: there so that the same tests run everywhere

    @kernel()
    def _bytes_1(q: Any, g: int, planes: Any, m: int, d: int, sums: Any) -> None:
        for r in range(GROUP):
            total = np.int64(0)
            for j in range(d):
                x = 256 * np.int64(planes[2 * m, j]) + np.int64(planes[2 * m + 1, j])
                total += np.int64(q[g, j // QUAD, r, j % QUAD]) * x
            sums[m, g * GROUP + r] = total

    @kernel()
    def _bytes_2(q: Any, g: int, planes: Any, m: int, d: int, sums: Any) -> None:
        for t in range(m, m + 2):
            _bytes_1(q, g, planes, t, d, sums)

    @kernel()
    def _bytes_3(q: Any, g: int, planes: Any, m: int, d: int, sums: Any) -> None:
        for t in range(m, m + 3):
            _bytes_1(q, g, planes, t, d, sums)


class Tokens(NamedTuple):
    """x as the kernel uses it. `padded` d: a multiple of 64, zeros (or no weight) in the padding.

    Either pass' sums S give <q, x> as step (S - middle row_sum).

    x: (tokens, padded d) float32; norm: (tokens,) float64, ||x|| rounded up, infinite where nothing
    may be certified; huge: (tokens,) bool, whether a product might overflow; planes: (2 * tokens,
    padded d) uint8, the high and low bytes of 16-bit numbers X with x ~ step (X - middle); step:
    (tokens,) float64, 1 where the float32 pass is used; loss: (tokens,) float64, at least
    ||x - step (X - middle)||, there 0; middle: 2^15, there 0.
    """

    x: npt.NDArray[np.float32]
    norm: npt.NDArray[np.float64]
    huge: npt.NDArray[np.bool_]
    planes: npt.NDArray[np.uint8]
    step: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    middle: float


@kernel(reordered=True)
def _sum_of_squares(x: Any) -> Any:
    """In float64, where the squares of float32 subnormals do not vanish."""
    total = 0.0
    for j in range(x.shape[0]):
        total += np.float64(x[j]) * np.float64(x[j])
    return total


@kernel()
def upper_norm(x: Any) -> Any:
    """||x|| rounded up."""
    return np.sqrt(_sum_of_squares(x)) * _ROOM


@kernel()
def usable_norm(x: Any, max_norm: float) -> Any:
    """||x|| rounded up, infinite where nothing may be certified; whether a product may overflow.

    max_norm: the largest norm of the rows that x is multiplied with.
    """
    norm = upper_norm(x)
    huge = not (norm * max_norm < HUGE_PRODUCT)
    return (np.inf if huge or not norm >= TINY_NORM else norm), huge


@kernel()
def lost(squared: float, norm: float) -> Any:
    """The norm of what x lost in becoming integers, rounded up, from its computed square.

    The differences are rounded, too: by at most 2^-52 |x_j| each.
    """
    return np.sqrt(squared) * _ROOM + norm * 2.0**-50


@kernel(reordered=True)
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


@kernel()
def take_tokens(x: Any, padded_d: int, max_norm: float, in_integers: bool) -> Any:
    """The fields of `Tokens`, from x, (tokens, d) float32 or, in uint16, bfloat16."""
    tokens, d = x.shape
    padded = np.zeros((tokens, padded_d), np.float32)
    norm, step, loss = np.empty(tokens), np.ones(tokens), np.zeros(tokens)
    huge = np.empty(tokens, np.bool_)
    planes = np.zeros((2 * tokens, padded_d if in_integers else 0), np.uint8)
    for m in range(tokens):
        for j in range(d):
            padded[m, j] = as_float(x[m, j])
        norm[m], huge[m] = usable_norm(padded[m], max_norm)
        if in_integers and norm[m] < np.inf:
            largest = np.float32(0.0)
            for j in range(d):
                largest = max(largest, abs(padded[m, j]))
            step[m] = np.float64(largest) / 32767.0
            squared = _to_planes(padded[m, :d], step[m], planes[2 * m], planes[2 * m + 1])
            loss[m] = lost(squared, norm[m])
    return padded, norm, huge, planes, step, loss, np.float64(_MIDDLE if in_integers else 0)


@kernel()
def float_sums(g: int, tokens: Any, q: Any, sums: Any) -> None:
    """sums[m, i] = <q_i, x_m> for the neurons i of group g, in float32.

    Up to four tokens a pass, so that a row is widened to float32 once for all of them.
    """
    x, count, d = tokens.x, tokens.x.shape[0], q.shape[1] * QUAD
    m = 0
    while m + 4 <= count:
        _float_4(q, g, x, m, d, sums)
        m += 4
    if m + 2 <= count:
        _float_2(q, g, x, m, d, sums)
        m += 2
    if m < count:
        _float_1(q, g, x, m, d, sums)


@kernel()
def integer_sums(g: int, tokens: Any, q: Any, sums: Any) -> None:
    """sums[m, i] = <q_i, X_m> for the neurons i of group g and the 16-bit X: exact."""
    planes, count, d = tokens.planes, tokens.x.shape[0], q.shape[1] * QUAD
    m = 0
    while m + 3 <= count:
        _bytes_3(q, g, planes, m, d, sums)
        m += 3
    if m + 2 <= count:
        _bytes_2(q, g, planes, m, d, sums)
        m += 2
    if m < count:
        _bytes_1(q, g, planes, m, d, sums)
