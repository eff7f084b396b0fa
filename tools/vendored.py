"""Fetch the charting libraries of the page anew, and check them: `python -m tools.vendored`.

`vendor/vendored.json` names package, version, the SHA-256 of npm's archive and of each file. With
`--check` nothing is fetched: the files that are there are compared. To take a newer version, change
the version, run, and put in the hashes that it names.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from reluctant.files import write_atomic

FOLDER = Path(__file__).parents[1] / "src" / "reluctant" / "lab" / "page" / "vendor"


def libraries() -> list[dict[str, Any]]:
    """What `vendored.json` names.

    >>> [library["package"] for library in libraries()]
    ['d3', '@observablehq/plot']
    """
    named: list[dict[str, Any]] = json.loads((FOLDER / "vendored.json").read_text("utf-8"))
    return named


def wrong(content: bytes, expected: str, what: str) -> list[str]:
    """A line if the SHA-256 of `content` is another one than `expected`."""
    got = hashlib.sha256(content).hexdigest()
    return [] if got == expected else [f"{what}: expected {expected}, got {got}"]


def check() -> list[str]:
    """What is not as `vendored.json` says; empty if all is well.

    >>> check()
    []
    """
    lines: list[str] = []
    for library in libraries():
        for file in library["files"]:
            lines += wrong((FOLDER / file["name"]).read_bytes(), file["sha256"], file["name"])
    return lines


def fetch(library: dict[str, Any]) -> list[str]:
    """Get one library from npm and write its files, unless something is not as named."""
    name = f"{library['package']}@{library['version']}"
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", name]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        lines = wrong(archive.read_bytes(), library["archive"], archive.name)
        with tarfile.open(archive) as tar:
            contents = {}
            for file in library["files"]:
                member = tar.extractfile(f"package/{file['path']}")
                contents[file["name"]] = b"" if member is None else member.read()
                lines += wrong(contents[file["name"]], file["sha256"], file["name"])
    if not lines:
        for file_name, content in contents.items():
            write_atomic(FOLDER / file_name, content)
    return lines


def main() -> int:
    """Fetch or check; 1 if something is not as named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare what is there, fetch nothing")
    lines = (
        check() if parser.parse_args().check else [one for lib in libraries() for one in fetch(lib)]
    )
    print("\n".join(lines) or "as named in vendored.json")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
