"""Lists of blocks of tokens and neurons, which lie here and there, put together: one a token.

What comes is `screened.Lists`; what is made are the arrays that `active` describes.
"""

from typing import Any

from reluctant.kernels.active import BLOCK, stays
from reluctant.kernels.compile import kernel
from reluctant.kernels.team import spread

_COPIED = 16  # tokens of a piece whose lists are put together


@kernel()
def count_stays(bounds: Any, neuron: Any, drop: float, seed: int, d_ff: int, start: Any) -> Any:
    """Writes `start`, of those that dropout lets be; how many are active."""
    active = 0
    start[0] = 0
    for m in range(bounds.shape[0]):
        stay = 0
        for b in range(bounds.shape[1]):
            active += bounds[m, b, 1] - bounds[m, b, 0]
            for p in range(bounds[m, b, 0], bounds[m, b, 1] if drop > 0 else bounds[m, b, 0]):
                stay += stays(m, neuron[p], d_ff, drop, seed)
            if drop == 0:
                stay += bounds[m, b, 1] - bounds[m, b, 0]
        start[m + 1] = start[m] + stay
    return active


@kernel()
def _copy(k: int, who: int, bounds: Any, neuron: Any, z: Any, drop: float, seed: int, d_ff: int,
          start: Any, offset: Any, neuron_to: Any, z_to: Any) -> None:  # fmt: skip
    """One list for each token, of those that stay."""
    for m in range(k * _COPIED, min((k + 1) * _COPIED, bounds.shape[0])):
        at, block = start[m], 0
        for b in range(bounds.shape[1]):
            for p in range(bounds[m, b, 0], bounds[m, b, 1]):
                i = neuron[p]
                if drop > 0 and not stays(m, i, d_ff, drop, seed):
                    continue
                while block <= i // BLOCK:
                    offset[m, block] = at - start[m]
                    block += 1
                neuron_to[at], z_to[at] = i, z[p]
                at += 1
        while block < offset.shape[1]:
            offset[m, block] = at - start[m]
            block += 1


@kernel()
def copy(bounds: Any, neuron: Any, z: Any, d_ff: int, drop: float, seed: int, start: Any,
         offset: Any, neuron_to: Any, z_to: Any, team: Any) -> None:  # fmt: skip
    """Writes the other arrays of `Active`."""
    arguments = (bounds, neuron, z, drop, seed, d_ff, start, offset, neuron_to, z_to)
    spread(_copy, team, -(-bounds.shape[0] // _COPIED), arguments)
