"""What is not installed, said in one line that mends it."""

from collections.abc import Iterator
from contextlib import contextmanager

from reluctant.errors import ReluctantError


@contextmanager
def numba_for(what: str) -> Iterator[None]:
    """Around imports that may need Numba: FeedForward and reluctant.transformer do not.

    Raises ReluctantError where Numba is missing, or refuses the NumPy that is installed.

    >>> with numba_for("reluctant.optimize"):
    ...     raise ModuleNotFoundError("No module named 'numba'", name="numba")
    Traceback (most recent call last):
        ...
    reluctant.errors.ReluctantError: reluctant.optimize needs Numba (No module named 'numba'): \
pip install numba
    """
    try:
        yield
    except ImportError as error:
        # Numba's own refusals, of a NumPy that is too new for it, name no module
        if error.name is not None and error.name.split(".")[0] not in ("numba", "llvmlite"):
            raise
        raise ReluctantError(f"{what} needs Numba ({error}): pip install numba") from error
