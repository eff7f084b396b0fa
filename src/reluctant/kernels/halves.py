"""Whether the processor that Numba compiles for turns float16 into float32 by itself.

Otherwise LLVM calls functions that need not be there.
"""

import platform

import numba
from llvmlite import binding

# Before 2013 there are processors without; of those that may be named, none is so old.
_NAMED = ("haswell", "broadwell", "skylake", "znver", "alderlake", "raptorlake", "sierraforest")


def _native() -> bool:
    named, features = numba.config.CPU_NAME, numba.config.CPU_FEATURES
    if platform.machine().lower() in ("arm64", "aarch64"):
        return not (named or features)
    if features:
        return "+f16c" in str(features)
    if named:
        return str(named).startswith((*_NAMED, "x86-64-v3", "x86-64-v4"))
    return bool(binding.get_host_cpu_features().get("f16c", False))


HALVES = _native()
