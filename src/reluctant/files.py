"""Files written whole or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from reluctant.errors import ReluctantError


def expanded(name: str | Path) -> Path:
    """The path that a user names, who may write ~ for a home.

    Raises ReluctantError for the home of somebody who is not known here.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ReluctantError(f"expected a path, got {name}: {error}") from error


def check_writable(path: Path) -> None:
    """Refuse, before a long run, a path that its result could not be written to.

    Args:
        path: the file to be written later; it may exist already.

    Raises:
        ReluctantError: its folder does not exist or is not writable, or the path is a folder.

    >>> check_writable(Path("no/such/folder/result.json"))
    Traceback (most recent call last):
        ...
    reluctant.errors.ReluctantError: expected a file in an existing folder, got \
no/such/folder/result.json: create no/such/folder first
    """
    if path.is_dir():
        raise ReluctantError(f"expected a file, got the folder {path}: name a file in it")
    if not path.parent.is_dir():
        raise ReluctantError(
            f"expected a file in an existing folder, got {path}: create {path.parent} first"
        )
    if not os.access(path.parent, os.W_OK):
        raise ReluctantError(
            f"expected a folder that may be written to, got {path.parent}: choose another one"
        )


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes to `path`; at every moment it is the old file or the new one.

    The content goes to a temporary file in the same folder, is flushed to the disk and renamed:
    renaming within a file system is atomic (POSIX rename).

    Raises:
        ReluctantError: as `check_writable`, or the disk is full.

    >>> folder = tempfile.TemporaryDirectory()
    >>> file = Path(folder.name) / "figures.txt"
    >>> write_atomic(file, "3.6 %")
    >>> file.read_text()
    '3.6 %'
    >>> folder.cleanup()
    """
    path = path.resolve()  # a symbolic link stays one: its target is replaced
    check_writable(path)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(_mode(path))
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ReluctantError(
            f"expected room for {len(content) / 1e6:.3g} MB at {path}: {error}. What was there is "
            "as it was"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically.

    Raises:
        ReluctantError: as `check_writable`.
        ValueError: `value` holds a NaN or an infinity, which JSON cannot say.
    """
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def json_line(value: Any) -> str:
    """`value` as JSON in one line, for a stream that may be a terminal: printable ASCII.

    >>> json_line({"é": "\\x9b31m\\x7f"})
    '{"\\\\u00e9": "\\\\u009b31m\\\\u007f"}'
    """
    return json.dumps(value, allow_nan=False).replace("\x7f", "\\u007f")  # which is ASCII, too


def _mode(path: Path) -> int:
    """The mode of the file that is replaced, else what the umask grants (mkstemp gives 0600)."""
    if path.exists():
        return path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
