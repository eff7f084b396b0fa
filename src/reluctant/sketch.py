"""The int8 sketch of the keys, its radius, and the proof that a certified zero is one.

Notation: u = 2^-24 is float32's unit roundoff, gamma_n = n u / (1 - n u). For a neuron with key k
(d long) and bias b, z = <k, x> + b. The sketch is integers q in [-127, 127]^d and a scale s; write
k^ = s q and r = k - k^. N is ||x||_2 rounded up. The kernel computes S, the float32 sum of the
q_j x_j in some order, and from it in float64 the estimate e = s S + b.

    radius = ( ||r|| + gamma_{d+4} ||k^|| + gamma_{d+8} ||k|| ) (1 + 16 u)    rounded up to float32

**Lemma.** If e + N radius + gamma_{d+8} |b| < t, then every float32 evaluation of z - its d
products and d additions in any order and grouping, the bias anywhere among them, with or without
FMA, with subnormals kept or flushed - gives a finite value <= t.

*Proof.*

1. A float32 sum of n products errs by at most gamma_n times the sum of their absolute values,
   which for <q, x> is at most ||q|| N (Cauchy-Schwarz). So s S is off <k^, x> by gamma_d ||k^|| N.
2. <k, x> = <k^, x> + <r, x>, and |<r, x>| <= ||r|| N.
3. A float32 evaluation of z, the bias being one more term, is off by gamma_{d+1} (||k|| N + |b|).
   Together, every evaluation is at most

       e + (||r|| + gamma_d ||k^|| + gamma_{d+1} ||k||) N + gamma_{d+1} |b|.

4. Underflow, flushed or gradual, adds to (1) and (3) at most 2^-126 for each of 2 d + 3 operations,
   and flushed operands 2^-126 sqrt(d) (||k|| + N). A key is sketched only if s >= 2^-40, so ||k||
   and ||k^|| are above 2^-34, and x is served only if N >= 2^-40. Then, for d < 2^22, these are
   below 3 u ||k|| N and, for (1), below u ||k^|| N.
5. The float64 steps err by a few 2^-53 of |s S| + |b| + N radius. (4) and (5) are what the indices
   d + 4 and d + 8 hold more than d and d + 1.
6. Nothing overflows: N max ||k|| < 2^125 and |e| < 2^126, hence |b| < 2^127. The bound on |e| also
   keeps out an S that overflowed. []

**In integers.** Where the processor has byte products, x is taken as 16-bit numbers, x^ = step X,
and S = step <q, X> is exact but for one float64 rounding. Then in place of (1) s S is off <k^, x>
by |<k^, x - x^>| <= ||k^|| ||x - x^||, and the bound has the product of these two norms, both
rounded up, as one more term; the radius is the same.

If f is exactly zero at every finite point <= t, the neuron contributes exactly nothing.

**Gated layers**, f(<g, x> + b) (<k, x> + c): the sketch is that of the gates g. A certified zero
times a finite factor is a zero; N max ||k|| < 2^125 and |c| < 2^126 keep the factor finite, in any
order of evaluation. Where they do not hold, the factor is computed even of a gate that is shut.

**bfloat16** numbers are float32 numbers, so the lemma holds of z as float32 sums have it. Rounding
z to bfloat16 afterwards is monotone: it stays <= t, given that t is a bfloat16 number itself.

**Centred**, for output projections: q and s are those of k - c for one vector c, the mean of all
rows, k^ = s q, r = k - c - k^, and e = s S + <c, x> + b, the second in float64. In (2), <k, x> =
<c, x> + <k^, x> + <r, x>. The sum <c, x>, and what float64 loses of r, is off by less than 2^-30
||c|| N. In (4) ||k|| has no bound from below any more; gamma_{d+8} ||k^|| in place of gamma_{d+4}
holds its part, too. The lemma's steps hold of both sides: every evaluation lies between e - room
and e + room.

**float16** numbers are, too, but end at 65,504. A z below that is -inf after rounding, where f has
to be zero, too (all but hardswish's is). A factor is kept finite as above, with N max ||k|| < 2^14
and |c| < 2^15. What is not certified and overflows is left to the dense way.

Each part is needed. Without the two gamma terms a key that is exactly on the sketch's grid can be
certified and still fire in a sequential float32 sum. Without gamma |b|, so can a neuron with t != 0
whose bias is added first. And with s = 2^-86 and ||x|| = 2^-46 there are products on both sides of
the underflow threshold, where no multiple of ||k|| ||x|| bounds the error: that is why "tiny"
starts at 2^-40. `tests/test_sketch.py` keeps a case of each.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from reluctant.errors import ReluctantError
from reluctant.kernels import integer, sums
from reluctant.kernels.halves import HALVES
from reluctant.kernels.lanes import GROUP, QUAD, TILE
from reluctant.kernels.quantise import quantise
from reluctant.kernels.team import team_for
from reluctant.weights import as_array

UNIT = 2.0**-24
TINIEST_SCALE = 2.0**-40
LONGEST = 2**22
SERVED = (torch.float32, torch.bfloat16, *([torch.float16] if HALVES else []))


def gamma(n: int) -> float:
    """gamma_n = n u / (1 - n u) (Higham, Accuracy and Stability of Numerical Algorithms, ch. 3)."""
    return n * UNIT / (1 - n * UNIT)


def radius_terms(norms: npt.NDArray[np.float64], d: int) -> npt.NDArray[np.float64]:
    """The radius' three terms, (n, 3), from the norms (n, 3) of k - k^, k^ and k.

    >>> radius_terms(np.array([[0.5, 100.0, 100.0]]), d=64)[0, 0]
    np.float64(0.5)
    """
    return np.multiply(norms, [1.0, gamma(d + 4), gamma(d + 8)])


def radius_of(terms: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Their sum, made a little larger and rounded up to float32."""
    exact = terms.sum(axis=1) * (1 + 16 * UNIT)
    with np.errstate(over="ignore"):  # an infinite radius certifies nothing, as it should
        rounded = exact.astype(np.float32)
    upward = np.nextafter(rounded, np.float32(np.inf))
    return np.asarray(np.where(rounded < exact, upward, rounded), np.float32)


@dataclass(frozen=True)
class Sketch:
    """int8 copy of the rows that feed the activation, with what the bound needs.

    q: (d_ff / 64, d_model / 4, 64, 4) int8, both padded to multiples of 64, zeros in the padding:
    four columns of 64 neurons on end, as the kernels read them (`rows` puts them straight);
    scale, radius: (d_ff,) float32; own_norm: (d_ff,) float32, ||k^|| rounded up; row_sum: (d_ff,)
    int32, the sums of q's rows; max_norm: the largest ||k||; slack: gamma_{d+8}, the share of |b|
    in the bound; centre: (d_model,) float32, what was taken from each row first.
    """

    q: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    radius: npt.NDArray[np.float32]
    own_norm: npt.NDArray[np.float32]
    row_sum: npt.NDArray[np.int32]
    max_norm: float
    slack: float
    centre: npt.NDArray[np.float32]

    @staticmethod
    def of(keys: torch.Tensor, *, centred: bool = False) -> "Sketch":
        """The sketch of keys (gated layers: of the gates), (d_ff, d_model) on the CPU.

        Float32, bfloat16 or float16, of which every number is one of float32's. centred: of the
        rows minus their mean.

        Raises ReluctantError for weights that hold a NaN or an infinity: the dense way computes
        0 * inf = NaN there, which skipping would hide.

        >>> sketch = Sketch.of(torch.tensor([[127.0, -64.0, 0.0]]))
        >>> sketch.rows[0, :3], sketch.scale
        (array([127, -64,   0], dtype=int8), array([1.], dtype=float32))
        """
        if keys.dim() != 2 or keys.dtype not in SERVED or keys.device.type != "cpu":
            raise ReluctantError(
                f"a sketch is made of keys (d_ff, d_model) in one of {SERVED} on the CPU; got "
                f"{tuple(keys.shape)} {keys.dtype} on {keys.device}"
            )
        d_ff, d = keys.shape
        if d >= LONGEST:
            raise ReluctantError(f"the proof holds for d_model < {LONGEST}; got {d}")
        rows = as_array(keys.data.contiguous())
        groups, tiles = -(-d_ff // GROUP), -(-d // TILE)
        q = np.zeros((groups, tiles * TILE // QUAD, GROUP), np.int32)
        scale, row_sum = np.empty(d_ff, np.float32), np.empty(d_ff, np.int32)
        norms = np.empty((d_ff, 3), np.float64)
        mean = (
            keys.data.mean(0, dtype=torch.float32).numpy() if centred else np.zeros(d, np.float32)
        )
        quantise(rows, mean, TINIEST_SCALE, q, scale, norms, row_sum, team_for(rows.nbytes))
        if not np.isfinite(norms[:, 2]).all():
            raise ReluctantError(
                "expected finite weights; the first matrix holds a NaN or an infinity: "
                "repair the checkpoint, or leave this layer as it is"
            )
        terms = radius_terms(norms, d)
        if centred:
            length = float(np.linalg.norm(mean.astype(np.float64)))
            terms = np.c_[terms, 8 * UNIT * norms[:, 1] + 2.0**-30 * length]
        radius = radius_of(terms)
        radius[scale == 0] = np.inf  # too small to be sketched: never certified
        return Sketch(
            q=q.view(np.int8).reshape(groups, -1, GROUP, QUAD),
            scale=scale,
            radius=radius,
            own_norm=radius_of(norms[:, 1:2]),
            row_sum=row_sum,
            max_norm=float(norms[:, 2].max(initial=0.0)),
            slack=gamma(d + 8),
            centre=mean,
        )

    @property
    def rows(self) -> npt.NDArray[np.int8]:
        """q as a matrix: (d_ff, d_model), each padded. A copy, for looking."""
        return self.q.transpose(0, 2, 1, 3).reshape(self.q.shape[0] * GROUP, -1)

    @property
    def in_integers(self) -> bool:
        """Whether the integer pass serves it on this machine."""
        return sums.INTEGER and self.q.shape[1] * QUAD <= integer.LONGEST


def sketch_bytes(d_ff: int, d_model: int) -> int:
    """Memory of a sketch, in bytes.

    >>> sketch_bytes(2048, 512) / (2 * 4 * 2048 * 512)  # of the layer's float32 weights
    0.12890625
    """
    return -(-d_ff // GROUP) * GROUP * (-(-d_model // TILE) * TILE) + 16 * d_ff
