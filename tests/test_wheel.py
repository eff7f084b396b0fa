"""The wheel by itself: in an environment of its own, with its dependencies and without extras."""

import json
import re
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytest.importorskip("hatchling")
ROOT = Path(__file__).parents[1]

# In the environment of the wheel: only the dependencies of this machine's packages are there.
BLOCK = """
import json, pathlib, sys
BLOCKED = set(json.loads(pathlib.Path({names!r}).read_text()))

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{{name}} is in no dependency of the wheel", name=name)

sys.meta_path.insert(0, Block())
"""


def closure(requirements: list[str]) -> set[str]:
    """The distributions that these name, and what those need, without extras."""
    found: set[str] = set()
    waiting = [Requirement(each) for each in requirements]
    while waiting:
        one = waiting.pop()
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(one.name)
        if name not in found:
            found.add(name)
            waiting += [Requirement(each) for each in distribution(name).requires or ()]
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", str(ROOT)]
    command += ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The folder of the programs of an environment that holds the wheel, and what it needs."""
    folder = wheel.parent / "env"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    install = [*pip, "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        lines = archive.read(metadata).decode().splitlines()
    needs = [line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist: ")]
    allowed = closure(needs)
    others = {
        top
        for top, owners in packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & {*allowed, "reluctant"}
    }
    assert "transformers" in others
    assert "torch" not in others
    names = folder / "blocked.json"
    names.write_text(json.dumps(sorted(others)))
    # Folders that a .pth names are searched last, and their own .pth files are not read: this
    # checkout's editable installation is not seen.
    paths = {str(distribution(name).locate_file("")) for name in allowed}
    (packages / "dependencies.pth").write_text("\n".join(sorted(paths)))
    (packages / "sitecustomize.py").write_text(BLOCK.format(names=str(names)))
    return folder / "bin"


def run(folder: Path, *command: str) -> str:
    program, *arguments = command
    done = subprocess.run(
        [str(folder / program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_the_library_and_no_tools(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"reluctant"}
    data = (
        "lab/page/words/walk.toml",
        "lab/page/vendor/d3.min.js",
        "lab/study/report/words/width.toml",
    )
    for wanted in ("py.typed", "costs/avx2.json", "cli/__init__.py", "whole/sentences.txt", *data):
        assert f"reluctant/{wanted}" in names
    assert not [name for name in names if re.search(r"test|scan|tiny", name)]


def test_help_runs(installed: Path) -> None:
    assert "bench" in run(installed, "reluctant", "--help")
    where = run(installed, "python", "-c", "import reluctant; print(reluctant.__file__)")
    assert Path(where.strip()).is_relative_to(installed.parent)


@pytest.mark.slow
def test_the_readmes_block_runs(installed: Path) -> None:
    """All its kernels are compiled for it."""
    block, _ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    run(installed, "python", "-W", "error", "-c", block + "\nassert y.shape == (1, 4, 512)")
