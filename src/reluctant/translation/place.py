"""The folder of a run: one process owns it, and what is in it is of one run."""

import os
import shutil
from pathlib import Path

from reluctant.errors import ReluctantError
from reluctant.transformer.io import CONFIG, WEIGHTS
from reluctant.translation import checkpoint, journal, sharded, vocabulary

_OWNED: dict[Path, int] = {}  # descriptors of the locks of this process, until it ends
_FILES = (journal.NAME, checkpoint.NAME, vocabulary.FILE, CONFIG, WEIGHTS)


def own(folder: Path) -> None:
    """Make the folder, and keep other processes out of it as long as this one lives.

    Raises ReluctantError if it cannot be written to, or another process is at work there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
        if folder not in _OWNED:
            lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
            _lock(lock, folder)
            _OWNED[folder] = lock
    except OSError as error:
        raise ReluctantError(f"expected a folder to write to, got {folder}: {error}") from error


def _lock(file: int, folder: Path) -> None:
    try:
        import fcntl  # noqa: PLC0415  not on Windows
    except ImportError:
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise ReluctantError(
            f"expected {folder} for this run alone: another process learns there. Wait for it, or "
            "name another --out"
        ) from error


def begun(folder: Path) -> journal.Journal | None:
    """The run that can be taken up here; None: one can begin, for nothing was learned yet.

    Raises ReluctantError if there is something else in the folder that a run would write over.
    """
    file = folder / journal.NAME
    if file.exists():
        found = journal.read(file)
        there = (folder / checkpoint.NAME).exists() or sharded.folders(folder)
        return found if there else None
    others = [name for name in _FILES if (folder / name).exists()]
    others += [each.name for each in (*checkpoint.files(folder), *sharded.folders(folder))]
    if others:
        raise ReluctantError(
            f"expected an empty folder or one of a run, got {folder} with {others[0]} and without "
            f"{journal.NAME}: name another --out"
        )
    return None


def tidy(folder: Path) -> None:
    """Remove what a process that was killed had begun to write."""
    for name in (*_FILES, "weights-"):
        for half in folder.glob(f".{name}*"):
            half.unlink(missing_ok=True)
    for half in folder.glob("checkpoint-*.partial"):
        shutil.rmtree(half, ignore_errors=True)


def clear(folder: Path) -> None:
    """Remove the weights of a run that has no checkpoint to go on from."""
    checkpoint.forget(folder, checkpoint.kept(folder))
