"""Whole models as others run them, each at its best: converted beforehand, asked by token ids.

One file a peer. What is not installed, or does not take a model, is left out with its reason.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch

from reluctant.errors import ReluctantError
from reluctant.machine import available_memory
from reluctant.whole.load import one_line
from reluctant.whole.peers import ctranslate, llama, openvino, torches
from reluctant.whole.peers.peer import Peer, UnfitError, Work

Builder = Callable[[Work], Peer]

EAGER = "eager float32"
ROOM = 2  # times the weights in float32: a copy, and what is made of it
OTHERS: dict[str, Builder] = {
    "CTranslate2 float32": partial(ctranslate.build, kind="float32"),
    "CTranslate2 int8": partial(ctranslate.build, kind="int8"),
    "OpenVINO GenAI float32": partial(openvino.build, kind="float32"),
    "OpenVINO GenAI int8": partial(openvino.build, kind="int8"),
    "llama.cpp BF16": partial(llama.build, dtype="BF16"),
    "llama.cpp Q8_0": partial(llama.build, dtype="Q8_0"),
}

__all__ = ["EAGER", "OTHERS", "Peer", "UnfitError", "Work", "build", "ways"]


def ways(dtype: torch.dtype, names: Iterable[str]) -> dict[str, Builder]:
    """Everything that is held against eager float32, which is not among them.

    dtype: of the checkpoint; for a 16-bit one eager and ours in it, too. names: of OTHERS, or
    beginnings of them, such as "llama.cpp"; "none" is no peer.

    Raises ReluctantError for a name that none begins with.
    """
    found: dict[str, Builder] = {"reluctant float32": torches.ours}
    if dtype is not torch.float32:
        kind = str(dtype).removeprefix("torch.")
        found = {f"eager {kind}": partial(torches.eager, dtype=dtype), **found}
        found["reluctant float32, narrow"] = partial(torches.ours, narrow=True)
        found[f"reluctant {kind}"] = partial(torches.ours, dtype=dtype)
    found["reluctant float32, batch-invariant"] = partial(torches.ours, batch_invariant=True)
    for name in names:
        fits = [other for other in OTHERS if other.lower().startswith(name.lower())]
        if not fits and name != "none":
            known = ", ".join(OTHERS)
            raise ReluctantError(f"expected peers among {known}; got {name!r}")
        found |= {fit: OTHERS[fit] for fit in fits}
    return found


def build(builder: Builder, work: Work) -> Peer | str:
    """The peer, or in one line why there is none: whatever ails it, the others are measured."""
    room, needed = available_memory(), ROOM * work.size
    if room is not None and room < needed:
        return f"it may take {needed / 1e9:.1f} GB to build; {room / 1e9:.1f} GB are left"
    try:
        return builder(work)
    except UnfitError as error:
        return str(error)
    except ImportError as error:
        return f"{error}: pip install 'reluctant[peers]'"
    except Exception as error:
        return one_line(error, 200)
