"""What a measurement was made on: a figure without it says nothing."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
MEMORY = Path("/proc/meminfo")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def cpu_model() -> str:
    """The processor's name as the system gives it.

    >>> cpu_model() != ""
    True
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def last_level_cache() -> int | None:
    """Bytes of the largest cache that the first processor has a share in; None: it does not say.

    A virtual machine may be told of a cache that it shares with others.

    >>> size = last_level_cache()
    >>> size is None or size > 0
    True
    """
    sizes = []
    for file in CACHES.glob("index*/size"):
        try:
            text = file.read_text(encoding="ascii").strip()
            sizes.append(int(text.rstrip("KMG")) * UNITS.get(text[-1:], 1))
        except (OSError, ValueError):
            continue
    return max(sizes, default=None)


def available_memory() -> int | None:
    """Bytes that new allocations can have without swapping; None: the system does not say.

    >>> size = available_memory()
    >>> size is None or size > 0
    True
    """
    try:
        lines = MEMORY.read_text(encoding="ascii").splitlines()
        kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
        return int(kilobytes[0]) * 2**10
    except (OSError, ValueError, IndexError):
        return None


def versions(*packages: str) -> dict[str, str]:
    """The installed version of each package; packages that are not installed are left out.

    >>> versions("torch", "no-such-package").keys()
    dict_keys(['torch'])
    """
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def header(*packages: str) -> str:
    """One line for the top of a table: processor, threads, versions of torch and `packages`."""
    installed = versions("reluctant", "torch", *packages)
    names = ", ".join(f"{name} {number}" for name, number in installed.items())
    return f"{cpu_model()}, {torch.get_num_threads()} threads; {names}"
