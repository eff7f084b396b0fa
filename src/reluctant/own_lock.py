"""A lock that a forked child has for itself."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class OwnLock:
    """Held by one thread of this process: who held it when it was forked is not in the child.

    >>> lock = OwnLock()
    >>> with lock.held(), lock.held():
    ...     pass
    """

    def __init__(self) -> None:
        self._lock, self._process = threading.RLock(), os.getpid()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it; a thread may do so more than once."""
        if self._process != os.getpid():
            self._lock, self._process = threading.RLock(), os.getpid()
        with self._lock:
            yield
