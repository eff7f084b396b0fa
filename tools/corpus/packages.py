"""Debian packages: fetched, and read without being unpacked to the disk."""

import re
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reluctant.errors import ReluctantError


@dataclass(frozen=True)
class Package:
    """files: the wanted ones, by path; notice: its copyright file, whole."""

    name: str
    version: str
    files: dict[str, bytes]
    notice: str


def fetch(names: Sequence[str], folder: Path) -> None:
    """Download the packages that are not in the folder yet. No rights of root are needed.

    Raises ReluctantError if apt-get cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if not list(folder.glob(f"{name}_*.deb"))]
    if not missing:
        return
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *missing]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode(errors="replace").strip() or error
        raise ReluctantError(
            f"expected Debian's apt-get to download {' '.join(missing)}, got: {said}. Call apt-get "
            f"update, or put the .deb files into {folder}"
        ) from error


def load(name: str, folder: Path, wanted: str) -> Package:
    """A package out of the folder; of its files those whose path matches the pattern as a whole.

    Raises ReluctantError if it is not there once, cannot be read, or has none of the files.
    """
    found = list(folder.glob(f"{name}_*.deb"))
    if len(found) != 1:
        raise ReluctantError(f"expected one {name}_*.deb in {folder}, got {len(found)}: fetch it")
    copyright_file = f"usr/share/doc/{name}/copyright"
    files: dict[str, bytes] = {}
    try:
        version = _output("-f", found[0], "Version").decode().strip()
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", found[0]],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as unpacking:
            assert unpacking.stdout is not None
            with tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive:
                for member in archive:
                    path = member.name.removeprefix("./")
                    if path == copyright_file or re.fullmatch(wanted, path):
                        content = archive.extractfile(member)
                        if content is not None:
                            files[path] = content.read()
            while unpacking.stdout.read(1 << 20):  # padding: a closed pipe would be an error
                pass
        if unpacking.returncode:
            raise subprocess.CalledProcessError(unpacking.returncode, unpacking.args)
    except (OSError, subprocess.CalledProcessError, tarfile.TarError) as error:
        raise ReluctantError(
            f"expected a Debian package, got {found[0]}, which dpkg-deb cannot read ({error}): "
            "remove it, and fetch it anew"
        ) from error
    notice = files.pop(copyright_file, b"").decode()
    if not files or not notice:
        raise ReluctantError(
            f"expected a copyright file and {wanted} in {found[0].name}, got "
            f"{len(files)} files: its layout has changed"
        )
    return Package(name, version, files, notice)


def _output(*arguments: str | Path) -> bytes:
    return subprocess.run(["dpkg-deb", *arguments], check=True, capture_output=True).stdout
