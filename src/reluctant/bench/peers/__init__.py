"""The dense implementations the engine is compared with, each at its best.

A peer gets what its users can give it: weights packed beforehand, inputs already in its own
form, outputs left in it. Only its own call is timed. It holds all the layers of a rotation.
"""

import warnings
from collections.abc import Callable, Collection, Iterable, Sequence

from reluctant.bench.peers import onnx_runtime, openvino, torch_int8, torches
from reluctant.bench.peers.peer import Peer, UnavailableError
from reluctant.errors import ReluctantError
from reluctant.feedforward import FeedForward

Builder = Callable[[Sequence[FeedForward], int], Peer]

# Exact: arithmetic in the weights' own dtype. Eager is always there: the yardstick.
EXACT: dict[str, Builder] = {
    "compile": torches.compiled,
    "oneDNN": torches.onednn,
    "ONNX Runtime": onnx_runtime.exact,
    "OpenVINO": openvino.exact,
}
# Approximate: weights in int8, or float32 ones rounded to bfloat16. Never counted as the best peer.
APPROXIMATE: dict[str, Builder] = {
    "torch int8": torch_int8.dynamic,
    "ONNX Runtime int8": onnx_runtime.int8,
    "OpenVINO int8": openvino.int8,
    "OpenVINO bf16": openvino.bfloat16,
}
LONGEST = 200  # characters of a reason: compilers' errors fill pages
BUILDERS = EXACT | APPROXIMATE

__all__ = [
    "APPROXIMATE",
    "BUILDERS",
    "EXACT",
    "Builder",
    "Peer",
    "build",
    "check_names",
    "why",
]


def check_names(names: Iterable[str], builders: Collection[str] | None = None) -> None:
    """Raises ReluctantError for a peer that is not among the builders (None: `BUILDERS`)."""
    builders = BUILDERS if builders is None else builders
    for name in names:
        if name not in builders:
            known = ", ".join(builders)
            raise ReluctantError(f"expected peers among {known}; got {name!r}")


def build(
    layers: Sequence[FeedForward], tokens: int, names: Iterable[str] = tuple(BUILDERS)
) -> tuple[list[Peer], dict[str, str]]:
    """Eager and every named peer that can be had here, and for the others the reason why not.

    Args:
        layers: on the CPU, all of one shape and dtype, with biases.
        tokens: rows of x; some peers are compiled for one shape.
        names: of `BUILDERS`.
    """
    peers, missing = [torches.eager(layers, tokens)], {}
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what goes on inside of others' packages
                peers.append(BUILDERS[name](layers, tokens))
        except UnavailableError:  # says nothing about this machine: there is no such thing
            continue
        except Exception as error:  # whatever ails a peer, the others are timed
            missing[name] = why(error)
    return peers, missing


def why(error: Exception) -> str:
    """The reason why a peer is missing, in one line.

    >>> why(KeyError())
    'KeyError'
    """
    if isinstance(error, ImportError):
        return f"{error}: pip install 'reluctant[bench]'"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."
