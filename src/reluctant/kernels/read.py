"""Reading memory and nothing else: what every kernel that reads weights is held against."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from reluctant.kernels.compile import kernel
from reluctant.kernels.team import spread
from reluctant.kernels.vector import I64, LANES, Emitter

_CHAINS = 8
PIECE = 1 << 16  # words
_ZEROS = ir.Constant(ir.VectorType(ir.FloatType(), LANES), [0.0] * LANES)


@intrinsic
def _sum(_: Any, words: Any, start: Any, stop: Any) -> Any:
    """The sum of words[start:stop], float32; whole steps of eight vectors only."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(context, builder, signature, args)
        data, _ = e.array(0)

        def step(j: Any, sums: list[Any]) -> list[Any]:
            return [
                e.b.fadd(s, e.load(data, e.b.add(j, I64(u * LANES)))) for u, s in enumerate(sums)
            ]

        _, total, *others = e.loop(args[1], args[2], _CHAINS * LANES, [_ZEROS] * _CHAINS, step)
        for other in others:
            total = e.b.fadd(total, other)
        return e.total(total)

    return types.float32(words, types.intp, types.intp), generate


@kernel()
def _piece(k: int, who: int, words: Any, sums: Any) -> None:
    sums[who, 0] += _sum(words, k * PIECE, min((k + 1) * PIECE, words.shape[0]))


@kernel()
def run(words: Any, sums: Any, team: Any) -> None:
    """Reads `words`, (n,) float32; all but some of the last 512 bytes of it.

    sums: (threads, 16) float32; written, so that no compiler can leave the reading out.
    """
    spread(_piece, team, -(-words.shape[0] // PIECE), (words, sums))
