"""What integer products the processor has that Numba compiles for."""

import platform
from typing import Literal

import numba
from llvmlite import binding

LONGEST = 2**16  # columns: 127 * 255 * d stays below 2^31

Capability = Literal["avx512vnni", "avxvnni", "avx2", "none"]

# Processors that may be named (NUMBA_CPU_NAME); of any other name nothing is taken for granted.
_NAMED: dict[str, Capability] = {
    **dict.fromkeys(("haswell", "broadwell", "skylake", "znver1", "znver2", "znver3"), "avx2"),
    **dict.fromkeys(("alderlake", "raptorlake", "sierraforest"), "avxvnni"),
}


def capability() -> Capability:
    """The best of the sketch's integer passes that runs here.

    "avx512vnni": byte products of 64 bytes (VNNI); "avxvnni": pairs of words multiplied and added
    up by one instruction; "avx2": by two; "none": float32 sums. `NUMBA_CPU_NAME=haswell` makes any
    x86-64 of today an "avx2".
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "none"
    named, features = numba.config.CPU_NAME, numba.config.CPU_FEATURES
    if named or features:
        return _NAMED.get(named or "", "none") if not features else "none"
    has = binding.get_host_cpu_features()
    if has.get("avx512vnni", False):
        return "avx512vnni"
    if has.get("avxvnni", False):
        return "avxvnni"
    return "avx2" if has.get("avx2", False) else "none"


CAPABILITY = capability()


def available() -> bool:
    """Whether there are any."""
    return CAPABILITY != "none"
