"""The documents' four claims about the feed-forward layer, and how it is applied, as experiments.

One file an experiment, small trained Transformers to make them on, results as JSON files that
`document` makes readable.
"""

from pathlib import Path
from typing import Any


def document(folder: Path) -> dict[str, Any]:
    """What the result files in a folder say, as JSON: see `reluctant.lab.study.report.document`."""
    from reluctant.lab.study.report.document import document as made  # noqa: PLC0415  loads torch

    return made(folder)
