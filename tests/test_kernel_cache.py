"""Compiled code of other sources is never run, nor read."""

import os
import subprocess
import sys
from pathlib import Path

MODULE = """
from typing import Any, NamedTuple
from reluctant.kernels import compile as compiling
compiling.sources_hash = lambda: {version!r}

class {name}(NamedTuple):
    number: int

@compiling.kernel()
def kernel(given: Any) -> int:
    return given.number + {more}

print(kernel({name}(40)), sum(kernel.stats.cache_hits.values()))
"""


def test_sources_whose_classes_are_gone(tmp_path: Path) -> None:
    """An index of compiled code names the classes of arguments: those of a version before."""

    def run(version: bytes, name: str, more: int) -> str:
        (tmp_path / "kernels.py").write_text(MODULE.format(version=version, name=name, more=more))
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, "-c", "import kernels"],
            capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run(b"one", "Old", 1) == "41 0"
    assert run(b"one", "Old", 1) == "41 1"
    assert run(b"two", "New", 2) == "42 0"
    assert run(b"two", "New", 2) == "42 1"
