"""How kernels are compiled, and where the compiled code is kept.

Numba keeps compiled code on disk and looks at the file that a function stands in to see whether it
is still that function's. A kernel's code holds that of the functions it calls, from other files, so
here it goes by all of them: whoever edits a kernel, or pulls another version, runs what is written.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
from numba import njit

_REORDERED = {"reassoc", "contract"}


@lru_cache(maxsize=1)
def sources_hash() -> bytes:
    """Of the names and contents of all files in this folder."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_bytes()
        found.update(f"{path.name} {len(text)}\n".encode())
        found.update(text)
    return found.digest()


def kernel(*, inline: str = "never", reordered: bool = False) -> Callable[..., Any]:
    """Numba's `njit` as all kernels use it: without the interpreter's lock, IEEE 754 throughout.

    inline: "always" puts the function's code into its callers. reordered: the compiler may choose
    the order of a sum's additions; for sums in float64 that only widen a bound or are compared with
    one, never for what decides or is an output.

    Where no folder for compiled code can be written, functions are compiled in every process.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        compiled = njit(
            nogil=True,
            error_model="numpy",
            inline=inline,
            fastmath=_REORDERED if reordered else False,
        )(function)
        try:
            compiled.enable_caching()
        except RuntimeError:  # no folder that can be written
            return compiled
        kept = compiled._cache._cache_file
        kept._source_stamp = sources_hash()
        # Read before anything else of a file, whose rest may name classes that are gone.
        kept._version = (numba.__version__, sources_hash())
        return compiled

    return decorate
