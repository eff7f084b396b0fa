"""Whether the sketch's pass may run in integers here."""

import platform

import numba
from llvmlite import binding

LONGEST = 2**16  # 127 * 255 * d stays below 2^31


def available() -> bool:
    """Whether this processor has byte products (VNNI), and Numba compiles for this processor."""
    if numba.config.CPU_NAME or numba.config.CPU_FEATURES:
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return bool(binding.get_host_cpu_features().get("avx512vnni", False))
