"""The sketch's pass over x: <q, x> for each neuron, in float32 or in integers."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reluctant.kernels import integer
from reluctant.kernels.compile import kernel
from reluctant.kernels.entries import as_float
from reluctant.kernels.lanes import byte_pass, float_pass
from reluctant.kernels.words import plain_pass, to_words, top_of, word_pass

TINY_NORM = 2.0**-40  # nothing is certified for an ||x|| below this: underflow
HUGE_PRODUCT = 2.0**125  # nor for ||x|| max ||k|| from here on: overflow
_MIDDLE = 2**15
_PLANES, _DIGIT = (2, np.uint8) if integer.CAPABILITY == "avx512vnni" else (1, np.int16)
_ROOM = 1.0 + 2.0**-40  # rounds a float64 norm up, generously

_float_1, _float_2, _float_4 = float_pass(1), float_pass(2), float_pass(4)

INTEGER = integer.available()
BYTES = integer.CAPABILITY == "avx512vnni"  # x in planes of bytes, elsewhere in words

if BYTES:
    _pass_1, _pass_2, _pass_3 = byte_pass(1), byte_pass(2), byte_pass(3)
elif INTEGER:
    _pass_1 = word_pass(1, 8, from_memory=True)
    _pass_2 = word_pass(2, 4, from_memory=True)
    _pass_3 = word_pass(3, 4, from_memory=True)
else:  # never chosen by the engine: there so that the same tests run everywhere
    _pass_1, _pass_2, _pass_3 = plain_pass(1), plain_pass(2), plain_pass(3)


class Tokens(NamedTuple):
    """x as the kernel uses it. `padded` d: a multiple of 64, zeros (or no weight) in the padding.

    Either pass' sums S give <q, x> as step (S - middle row_sum).

    x: (tokens, padded d) float32; norm: (tokens,) float64, ||x|| rounded up, infinite where nothing
    may be certified; huge: (tokens,) bool, whether a product might overflow; digits: x as integers
    X with x ~ step (X - middle), as the processor's pass takes them (BYTES): (2 * tokens, padded d)
    uint8, the high and low bytes of 16-bit numbers, or (tokens, padded d) int16, in the order of
    `words`; step: (tokens,) float64, 1 where the float32 pass is used; loss: (tokens,) float64, at
    least ||x - step (X - middle)||, there 0; middle: 2^15 of bytes, otherwise 0.
    """

    x: npt.NDArray[np.float32]
    norm: npt.NDArray[np.float64]
    huge: npt.NDArray[np.bool_]
    digits: npt.NDArray[Any]
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
def _digits(m: int, x: Any, step: float, digits: Any) -> Any:
    """Writes token m's x as integers; gives the sum of the squared losses."""
    if BYTES:
        d = x.shape[0]
        return _to_planes(x, step, digits[2 * m, :d], digits[2 * m + 1, :d])
    return to_words(x, step, digits[m])


@kernel()
def take_tokens(x: Any, padded_d: int, max_norm: float, in_integers: bool) -> Any:
    """The fields of `Tokens`, from x, (tokens, d), in the weights' type."""
    tokens, d = x.shape
    padded = np.zeros((tokens, padded_d), np.float32)
    norm, step, loss = np.empty(tokens), np.ones(tokens), np.zeros(tokens)
    huge = np.empty(tokens, np.bool_)
    digits = np.zeros((_PLANES * tokens, padded_d if in_integers else 0), _DIGIT)
    top = np.float64(32767 if BYTES else top_of(padded_d))
    for m in range(tokens):
        for j in range(d):
            padded[m, j] = as_float(x[m, j])
        norm[m], huge[m] = usable_norm(padded[m], max_norm)
        if in_integers and norm[m] < np.inf:
            largest = np.float32(0.0)
            for j in range(d):
                largest = max(largest, abs(padded[m, j]))
            step[m] = np.float64(largest) / top
            loss[m] = lost(_digits(m, padded[m, :d], step[m], digits), norm[m])
    middle = np.float64(_MIDDLE if in_integers and BYTES else 0)
    return padded, norm, huge, digits, step, loss, middle


@kernel()
def float_sums(g: int, tokens: Any, q: Any, sums: Any, c: int) -> None:
    """sums[m, c + i] = <q_i, x_m> for the rows i of group g, in float32.

    Up to four tokens a pass, so that a row is widened to float32 once for all of them.
    """
    x, count = tokens.x, tokens.x.shape[0]
    m = 0
    while m + 4 <= count:
        _float_4(q, g, x, m, sums, m, c)
        m += 4
    if m + 2 <= count:
        _float_2(q, g, x, m, sums, m, c)
        m += 2
    if m < count:
        _float_1(q, g, x, m, sums, m, c)


@kernel()
def integer_sums(g: int, tokens: Any, q: Any, sums: Any, c: int) -> None:
    """sums[m, c + i] = <q_i, X_m> for the rows i of group g and the integers X: exact."""
    digits, count = tokens.digits, tokens.x.shape[0]
    m = 0
    while m + 3 <= count:
        _pass_3(q, g, digits, m, sums, m, c)
        m += 3
    if m + 2 <= count:
        _pass_2(q, g, digits, m, sums, m, c)
        m += 2
    if m < count:
        _pass_1(q, g, digits, m, sums, m, c)
