"""Processes that a benchmark starts beside its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from reluctant.errors import ReluctantError


@contextmanager
def processes(arguments: list[str], count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Children of ours that have said that they are ready; killed at the end, whatever happens.

    Where nothing of ours runs any more (a second Ctrl-C, kill -9), their input ends, and they do.
    """
    started: list[subprocess.Popen[str]] = []
    try:
        for _ in range(count):
            child = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is for us: it would be told twice
            )
            started.append(child)
        for child in started:
            answer(child)
        yield started
    finally:
        for child in started:
            child.kill()
        for child in started:
            child.communicate()


def answer(child: subprocess.Popen[str]) -> str:
    """The next line that a child writes.

    Raises ReluctantError if it has ended instead.
    """
    assert child.stdout is not None
    line = child.stdout.readline().strip()
    if not line:
        raise ReluctantError("a process that was started beside this one has ended early")
    return line
