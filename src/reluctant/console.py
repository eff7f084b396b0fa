"""Where progress is shown: one for all, since two would write over each other's lines."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console() -> "Console":
    """On stderr, so that stdout holds results and nothing else."""
    from rich.console import Console  # noqa: PLC0415  Help needs none of this

    return Console(stderr=True)
