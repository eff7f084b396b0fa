"""What a measurement was made on: a figure without it says nothing."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


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
