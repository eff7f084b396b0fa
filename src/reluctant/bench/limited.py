"""A run as on a lesser processor: started anew, with libraries that are told to use no more.

What a library may use it looks up when it is loaded, so it has to be in the environment before.
"""

import os
import sys
from collections.abc import Iterable
from typing import NoReturn

from reluctant.bench.peers import BUILDERS
from reluctant.errors import ReluctantError
from reluctant.kernels import integer

ENVIRONMENTS = {
    "avx2": {
        "NUMBA_CPU_NAME": "haswell",
        "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels, and what Inductor compiles for
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
}
PEERS = ("compile", "oneDNN")  # beside eager; the others look at the processor themselves
_MAIN = "import sys; sys.argv[0] = 'reluctant'; from reluctant.cli import main; main()"


def ensure(name: str | None, arguments: list[str]) -> None:
    """Return if this process was started with the limits of that name (None: without any), else
    start it anew with them.

    Raises:
        ReluctantError: there are no such limits, or the processor cannot do even that.
    """
    if name is None:
        return
    if name not in ENVIRONMENTS:
        raise ReluctantError(f"expected --as {', '.join(ENVIRONMENTS)}; got {name!r}")
    if any(os.environ.get(key) != value for key, value in ENVIRONMENTS[name].items()):
        if not integer.available():
            raise ReluctantError(f"expected a processor with {name}; this one has nothing like it")
        start_anew(name, arguments)


def start_anew(name: str, arguments: list[str]) -> NoReturn:
    """Become `reluctant` with these arguments and limits: a child would outlive us if we are
    killed."""
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, "-c", _MAIN, *arguments]
    os.execve(sys.executable, command, os.environ | ENVIRONMENTS[name])


def peers(name: str | None, wanted: Iterable[str]) -> list[str]:
    """The peers that are wanted; with limits, if none is named, all that can be limited.

    Raises:
        ReluctantError: one that is wanted cannot.
    """
    names = list(wanted)
    if name is None:
        return names
    for each in names:
        if each in BUILDERS and each not in PEERS:
            raise ReluctantError(
                f"expected peers that can be limited to {name}, of {', '.join(PEERS)}; got {each!r}"
            )
    return names or list(PEERS)
